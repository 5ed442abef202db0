// SPDX-License-Identifier: Apache-2.0

// Caddy's selection policies choose as before, and with one origin dead every
// request is answered whatever the policy.

package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// stockPolicies are all of Caddy's.
var stockPolicies = []struct {
	name, options string
	certain       bool // the choice depends on the request and on the ones before only
}{
	{"random", "", false},
	{"random_choose", " 2", false},
	{"round_robin", "", true},
	{"weighted_round_robin", " 3 1 2", true},
	{"least_conn", "", false},
	{"first", "", true},
	{"ip_hash", "", true},
	{"client_ip_hash", "", true},
	{"uri_hash", "", true},
	{"query", " key", true},
	{"header", " X-Key", true},
	{"cookie", "", false},
}

// policyRequest is the i-th of a series that differs in everything that a policy
// looks at, the remote address excepted.
func policyRequest(t *testing.T, s *server, i int) *http.Request {
	return newRequest(t, http.MethodGet, s.url(fmt.Sprintf("/%d?key=k%d", i, i)), nil,
		"X-Key", fmt.Sprint("k", i), "X-Forwarded-For", fmt.Sprint("203.0.113.", i))
}

func servePolicy(t *testing.T, directive, policy string, upstreams ...string) *server {
	return serveConfig(t, "", "trusted_proxies static 127.0.0.1",
		fmt.Sprintf("%s %s {\n lb_policy %s\n }", directive, join(upstreams...), policy))
}

func TestStockPoliciesChooseAsBefore(t *testing.T) {
	a, b, c := origin(t, named("a")), origin(t, named("b")), origin(t, named("c"))
	for _, p := range stockPolicies {
		if !p.certain {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			chosen := make(map[string]string)
			onBoth(t, func(t *testing.T, directive string) {
				// Caddy forgets to close idle connections of its default transport.
				s := servePolicy(t, directive, p.name+p.options+"\n transport http {\n keepalive off\n }", a, b, c)
				client := newClient(t)
				for i := range 20 {
					chosen[directive] += do(t, client, policyRequest(t, s, i)).body
				}
			})
			expect(t, "choices of reset_guard", chosen[guarded], chosen[stock])
		})
	}
}

// The cookie that the policy sets leads back to the same origin.
func TestStockCookiePolicy(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := servePolicy(t, directive, "cookie", origin(t, named("a")), origin(t, named("b")), origin(t, named("c")))
		first := s.get(t, "/")
		cookie := cookieOf(t, first)
		for range 5 {
			expect(t, "origin", s.get(t, "/", "Cookie", cookie).body, first.body)
		}
	})
}

// cookieOf is the cookie that a browser would send back: the last one set.
func cookieOf(tb testing.TB, got answer) string {
	tb.Helper()
	all := got.header.Values("Set-Cookie")
	if len(all) == 0 {
		tb.Fatal("no cookie was set")
	}
	cookie, _, _ := strings.Cut(all[len(all)-1], ";")
	return cookie
}

func TestGuardAnswersUnderEachPolicy(t *testing.T) {
	for _, p := range stockPolicies {
		for _, fault := range []faultinject.Fault{faultinject.Refuse, faultinject.CloseAfterRequest} {
			t.Run(p.name+" "+string(fault), func(t *testing.T) {
				leaveNothing(t)
				bad := startOrigin(t, faultinject.Config{Name: "bad", Fault: fault})
				s := servePolicy(t, guarded, p.name+p.options, origin(t, named("a")), bad.Addr(), origin(t, named("b")))
				client := newClient(t)
				for i := range 30 {
					got := do(t, client, policyRequest(t, s, i))
					if got.status != http.StatusOK || got.body != "a" && got.body != "b" {
						t.Errorf("request %d: got %d %q, want 200 of a or b", i, got.status, got.body)
					}
				}
			})
		}
	}
}

// The cookie does not lead back to the origin that failed.
func TestGuardCookieAfterFailover(t *testing.T) {
	leaveNothing(t)
	bad := startOrigin(t, faultinject.Config{Name: "bad"})
	s := servePolicy(t, guarded, "cookie", bad.Addr(), origin(t, named("good")))
	cookie, body := "", "good"
	for body == "good" { // until the cookie is that of the one to fail
		got := s.get(t, "/")
		cookie, body = cookieOf(t, got), got.body
	}
	if err := bad.SetFault(faultinject.Refuse, 1); err != nil {
		t.Fatal(err)
	}
	got := s.get(t, "/", "Cookie", cookie)
	expect(t, "body", got.body, "good")
	lines := len(s.faults(t))
	for range 5 {
		expect(t, "body", s.get(t, "/", "Cookie", cookieOf(t, got)).body, "good")
	}
	expect(t, "lines after the cookie had changed", len(s.faults(t)), lines)
}

// An origin with weight 0 gets nothing, as before.
func TestStockWeightZero(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := servePolicy(t, directive, "weighted_round_robin 1 0", deadAddr(t), origin(t, named("unused")))
		expect(t, "status", s.get(t, "/").status, http.StatusBadGateway)
	})
}

// The origin that answers is named in the placeholders of the one that answers.
func TestStockUpstreamPlaceholders(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		show := func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Header.Get("X-Up")+" "+r.Host)
		}
		good, bad := origin(t, show), deadAddr(t)
		s := serve(t, fmt.Sprintf(`%s %s %s {
			lb_policy first
			lb_retries 2
			fail_duration 1m
			header_up X-Up {http.reverse_proxy.upstream.hostport}
			header_up Host {http.reverse_proxy.upstream.hostport}
			header_down X-Served-By {http.reverse_proxy.upstream.address}
		}`, directive, bad, good))
		got := s.get(t, "/")
		expect(t, "what the origin got", got.body, good+" "+good)
		expect(t, "X-Served-By", got.header.Get("X-Served-By"), "tcp/"+good)
	})
}
