// SPDX-License-Identifier: Apache-2.0

package caddymodule_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// A client that chooses the upstream's name may choose what is no text.
func TestNameOfUpstreamThatIsNotText(t *testing.T) {
	s := serve(t, guarded+" {http.request.header.X-Backend}:80")
	got := do(t, newClient(t), newRequest(t, http.MethodGet, s.url("/"), nil, "X-Backend", "a\xffb"))
	expect(t, "status", got.status, http.StatusBadGateway)
	ctx := caddy.ActiveContext()
	if _, err := ctx.GetMetricsRegistry().Gather(); err != nil {
		t.Errorf("gathering metrics: %v", err)
	}
}
