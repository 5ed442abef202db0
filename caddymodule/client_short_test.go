// SPDX-License-Identifier: Apache-2.0

// Clients whose uploads are not as long as they said. HTTP/3's server does not
// compare (HTTP/1 and HTTP/2 do), so a guard that did not either would take what the
// origin or net/http says of it for a fault of the origin.

package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

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
