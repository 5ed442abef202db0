// SPDX-License-Identifier: Apache-2.0

// Requests that cannot be put on any wire: the client's doing, and no origin's.

package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestUnsendableRequestsBlameNoOrigin(t *testing.T) {
	for name, c := range map[string]struct{ options, method, target string }{
		"value with a line break": {"header_up X-Q {query.q}", http.MethodGet, "/?q=a%0d%0aX-Evil:%201"},
		"value with a zero byte":  {"header_up X-Q {query.q}", http.MethodGet, "/?q=%00"},
		"with a body":             {"header_up X-Q {query.q}", http.MethodPut, "/?q=%0a"},
		"with a buffered body":    {"header_up X-Q {query.q}\n request_buffers 1MiB", http.MethodPost, "/?q=%0a"},
		"HTTP/2":                  {"header_up X-Q {query.q}\n transport http {\n versions h2c\n }", http.MethodGet, "/?q=%0a"},
		"HTTP/2 with a body":      {"header_up X-Q {query.q}\n transport http {\n versions h2c\n }", http.MethodPost, "/?q=%0a"},
		"without error page":      {"header_up X-Q {query.q}\n error_page off", http.MethodGet, "/?q=%0a"},
		"failover off":            {"header_up X-Q {query.q}\n failover off", http.MethodGet, "/?q=%0a"},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			var requests atomic.Int32
			addr := origin(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
			s := serve(t, fmt.Sprintf("log\n%s %s %s {\n fail_duration 30s\n max_fails 1\n %s\n %s\n }", guarded, addr, addr, failsHeader, c.options))
			for i := range 3 {
				var body io.Reader
				if c.method != http.MethodGet {
					body = strings.NewReader("body")
				}
				got := do(t, newClient(t), newRequest(t, c.method, s.url(c.target), body))
				expect(t, "status", got.status, http.StatusBadRequest)
				expect(t, "status in the access log", s.accessStatus(t, i+1), http.StatusBadRequest)
			}
			expect(t, "requests at the origin", requests.Load(), 0)
			for _, l := range s.faults(t) {
				if l.text("side") != "client" || l.text("level") == "error" {
					t.Errorf("an origin is blamed: %v", l)
				}
			}
			if strings.Contains(c.options, "h2c") {
				return // this origin does not speak it
			}
			expect(t, "failures", s.get(t, "/").header.Get("X-Fails"), "0")
		})
	}
}
