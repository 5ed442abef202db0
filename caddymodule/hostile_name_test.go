// SPDX-License-Identifier: Apache-2.0

// Names of upstreams that clients choose, and choose badly.

package caddymodule_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
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

// A client that chooses the name in the handshake can choose one that no
// certificate is for.
func TestServerNameOfTheClient(t *testing.T) {
	var upstreams []string
	var trust string
	for range 3 {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(srv.Close)
		upstreams = append(upstreams, strings.TrimPrefix(srv.URL, "https://"))
		trust = base64.StdEncoding.EncodeToString(srv.Certificate().Raw)
	}
	s := serve(t, fmt.Sprintf(`%s %s {
		transport http {
			tls
			tls_trust_pool inline {
				trust_der %s
			}
			tls_server_name {http.request.header.X-Name}
			keepalive off
		}
	}`, guarded, join(upstreams...), trust))
	expect(t, "status with a good name", s.get(t, "/", "X-Name", "example.com").status, http.StatusOK)
	for range 30 {
		expect(t, "status with another name", s.get(t, "/", "X-Name", "evil.test").status, http.StatusBadGateway)
	}
	expect(t, "status with a good name", s.get(t, "/", "X-Name", "example.com").status, http.StatusOK)
	expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
	expect(t, "pool faults", len(s.told(t, "all upstreams fail alike")), 0)
}
