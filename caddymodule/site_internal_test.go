// SPDX-License-Identifier: Apache-2.0

// A site at the end of its configuration.

package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A request may still be under way when its configuration ends, to a site that
// no request has come to before.
func TestSelectAfterTheEnd(t *testing.T) {
	r := &registry{sites: make(map[*site]bool)}
	r.metrics = newMetrics(r.addresses)
	s := &site{app: &App{registry: r}}
	s.stop(time.Now())
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req = req.WithContext(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
	pool := reverseproxy.UpstreamPool{{Dial: "127.0.0.1:80", Host: new(reverseproxy.Host)}}
	if u := (Selection{site: s}).Select(pool, req, httptest.NewRecorder()); u != pool[0] {
		t.Errorf("got %v, want the only upstream", u)
	}
	if len(r.inUse()) != 0 {
		t.Error("a site that has ended came back")
	}
}
