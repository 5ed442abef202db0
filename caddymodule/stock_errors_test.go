// SPDX-License-Identifier: Apache-2.0

// Who answers when all origins fail: the site's own error routes, if they would,
// and the guard otherwise.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// serveSites runs a Caddy with sites that share an address.
func serveSites(tb testing.TB, sites func(addr string) string) *server {
	tb.Helper()
	s := &server{addr: freeAddr(tb), log: filepath.Join(tb.TempDir(), "caddy.log")}
	s.load(tb, adapt(tb, fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 1s
	log default {
		output file %s
		format json
		level DEBUG
	}
}
%s
`, s.log, sites(s.addr))))
	return s
}

// once makes the guard give up at once, so that tests need not wait.
const once = "failover {\n attempts 1\n }"

func onceIf(directive string) string { return map[string]string{guarded: once}[directive] }

// An error that is the operator's to answer is the same as without the guard.
func TestStockErrorRoutes(t *testing.T) {
	for _, c := range []struct{ name, routes, want string }{
		{"all errors", "handle_errors {\n respond \"operator {err.status_code}\"\n }", "502 operator 502"},
		{"this error", "handle_errors 502 {\n respond \"operator\" 503\n }", "503 operator"},
		{"a range", "handle_errors 5xx {\n respond \"operator\"\n }", "502 operator"},
		{"by path", "handle_errors {\n @p path /page\n respond @p \"operator\"\n }", "502 operator"},
		{"after a rewrite", "rewrite /elsewhere\n handle_errors {\n @p path /page\n respond @p \"operator\"\n }", "502 operator"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				s := serve(t, fmt.Sprintf("%s\n%s %s {\n %s\n }", c.routes, directive, deadAddr(t), onceIf(directive)))
				got := s.get(t, "/page")
				expect(t, "answer", fmt.Sprint(got.status, " ", got.body), c.want)
			})
		})
	}
}

// isGuardsPage tells whether the guard has answered.
func isGuardsPage(got answer) bool {
	return got.status == http.StatusBadGateway && strings.Contains(got.body, "Request ID:")
}

// Error routes that are not for this error leave it to the guard.
func TestGuardAnswersDespiteErrorRoutes(t *testing.T) {
	const other = "handle_errors {\n respond \"operator of the other\"\n }\n respond ok"
	for _, c := range []struct {
		name  string
		sites func(addr, proxy string) string
	}{
		{"of another host", func(addr, proxy string) string {
			return fmt.Sprintf("http://%s {\n %s\n }\nhttp://other.test:%s {\n %s\n }", addr, proxy, portOf(addr), other)
		}},
		{"for another status", func(addr, proxy string) string {
			return fmt.Sprintf("http://%s {\n handle_errors 404 {\n respond no\n }\n %s\n }", addr, proxy)
		}},
		{"for another path", func(addr, proxy string) string {
			return fmt.Sprintf("http://%s {\n handle_errors {\n @p path /other\n respond @p no\n }\n %s\n }", addr, proxy)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaveNothing(t)
			s := serveSites(t, func(addr string) string { return c.sites(addr, guarded+" "+deadAddr(t)+" {\n "+once+"\n }") })
			if got := s.get(t, "/page"); !isGuardsPage(got) {
				t.Errorf("got %d %q, want the guard's answer", got.status, got.body)
			}
		})
	}
}

// On a site of the same server whose operator answers, the operator does.
func TestGuardLeavesErrorToItsOwnSite(t *testing.T) {
	leaveNothing(t)
	s := serveSites(t, func(addr string) string {
		return fmt.Sprintf("http://%s {\n %s\n }\nhttp://other.test:%s {\n handle_errors {\n respond operator\n }\n %[2]s\n }",
			addr, guarded+" "+deadAddr(t)+" {\n "+once+"\n }", portOf(addr))
	})
	expect(t, "with error routes", s.get(t, "/", "Host", "other.test:"+portOf(s.addr)).body, "operator")
	if got := s.get(t, "/"); !isGuardsPage(got) {
		t.Errorf("without: got %d %q, want the guard's answer", got.status, got.body)
	}
}

// With error_page off an error is Caddy's, as without the guard.
func TestGuardErrorPageOff(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		own := map[string]string{guarded: once + "\n error_page off"}[directive]
		s := serve(t, fmt.Sprintf("%s %s {\n %s\n }", directive, deadAddr(t), own))
		got := s.get(t, "/")
		expect(t, "answer", fmt.Sprint(got.status, got.body), "502")
		lines := 0
		for _, l := range s.lines(t) {
			if strings.HasPrefix(l.text("logger"), "http.log.error") {
				lines++
			}
		}
		expect(t, "lines of Caddy's error log", lines, 1)
	})
}

// The statuses are those of the proxy.
func TestStockErrorStatus(t *testing.T) {
	for fault, want := range map[faultinject.Fault]int{
		faultinject.Refuse:             http.StatusBadGateway,
		faultinject.CloseAfterRequest:  http.StatusBadGateway,
		faultinject.StallBeforeHeaders: http.StatusGatewayTimeout,
		faultinject.Garbage:            http.StatusBadGateway,
	} {
		t.Run(string(fault), func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				bad := startOrigin(t, faultinject.Config{Fault: fault})
				s := serve(t, fmt.Sprintf("log\n%s %s {\n transport http {\n response_header_timeout 100ms\n }\n %s\n }", directive, bad.Addr(), onceIf(directive)))
				expect(t, "status", s.get(t, "/").status, want)
				expect(t, "status in the access log", s.accessStatus(t, 1), want)
			})
		})
	}
}

// An error route may ask another origin, which gets the body that the first one
// has not seen.
func TestStockErrorRouteProxies(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf("handle_errors {\n %s %s\n }\n%[1]s %[3]s {\n %[4]s\n }", directive, origin(t, describe), deadAddr(t), onceIf(directive)))
		got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("body")))
		// Caddy's error routes answer with the status of the error.
		expect(t, "body", got.body, "HTTP/1.1 - POST 4 <nil>")
	})
}

// intercept sees an origin's responses as before.
func TestStockIntercept(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf("intercept {\n @e status 404\n replace_status @e 410\n }\n%s %s", directive, origin(t, withStatus)))
		expect(t, "404", s.get(t, "/404").status, http.StatusGone)
		expect(t, "200", s.get(t, "/200").status, http.StatusOK)
	})
}
