// SPDX-License-Identifier: Apache-2.0

// Clients whose uploads are not as long as they said. HTTP/3's server does not
// compare (HTTP/1 and HTTP/2 do), so a guard that did not either would take what the
// origin or net/http says of it for a fault of the origin.

package caddymodule_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// What is short must not reach an origin as whole: not with a trailer, where the proxy
// forgets the length, nor from a buffer, where it takes the length of what has come.
func TestShortUploadsReachNoOrigin(t *testing.T) {
	for name, option := range map[string]string{"with a trailer": "", "buffered": "request_buffers 1MiB", "all buffered": "request_buffers unlimited"} {
		t.Run(name, func(t *testing.T) {
			var whole atomic.Int64
			o := origin(t, func(_ http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					whole.Add(1)
				}
			})
			s := serveSecure(t, "reset_guard "+o+" {\n"+option+"\n}")
			client := secureClients[2].start(t, s)
			req := newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("abc"))
			req.ContentLength = 10
			if option == "" {
				req.Trailer = http.Header{"X-A": {"a"}}
			}
			expect(t, "status", do(t, client, req).status, http.StatusBadRequest)
			expect(t, "uploads taken for whole", whole.Load(), 0)
		})
	}
}

func TestShortUploadsEjectNobody(t *testing.T) {
	for name, protocol := range map[string]faultinject.Protocol{"HTTP/1": faultinject.H1, "HTTP/2": faultinject.H2C} {
		t.Run(name, func(t *testing.T) {
			origins := []*faultinject.Origin{
				startOrigin(t, faultinject.Config{Protocol: protocol}),
				startOrigin(t, faultinject.Config{Protocol: protocol}),
			}
			transport := ""
			if protocol == faultinject.H2C {
				transport = "transport http {\n versions h2c\n }\n"
			}
			s := serveSecure(t, "reset_guard "+join(addrsOf(origins)...)+" {\n"+transport+"}")
			client := secureClients[2].start(t, s)
			for range 60 {
				req := newRequest(t, http.MethodPut, s.url("/"), strings.NewReader("abc"))
				req.ContentLength = 10
				expect(t, "status of a short upload", do(t, client, req).status, http.StatusBadRequest)
			}
			for range 20 {
				expect(t, "status of another", do(t, client, newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("abc"))).status, http.StatusOK)
			}
			expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
			expect(t, "pool faults", len(s.told(t, "all upstreams fail alike")), 0)
			for _, l := range s.faults(t) {
				if l.text("side") != "client" {
					t.Fatalf("a client's doing was told as a fault: %v", l)
				}
			}
		})
	}
}
