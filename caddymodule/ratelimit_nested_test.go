// SPDX-License-Identifier: Apache-2.0

// Limits behind one another, behind other handlers, and in front of other guards.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

func provenCookie(id uint64) string {
	return "rg=" + caddymodule.MintForTest(id, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())
}

var navigating = []string{"Sec-Fetch-Mode", "navigate"}

// A guard that another one's handle_response asks knows the client as that one does.
func TestLimitBehindAGuard(t *testing.T) {
	auth, app := origin(t, named("auth")), origin(t, named("app"))
	s := serve(t, fmt.Sprintf(`route {
	reset_guard %s {
		rate_limit {
			client 1/m burst 9
		}
		@ok status 2xx
		handle_response @ok {
			reset_guard %s {
				rate_limit {
					client 1/m burst 2
				}
			}
		}
	}
}`, auth, app))
	header := append([]string{"Cookie", provenCookie(1)}, navigating...)
	for i, want := range []int{200, 200, 429} { // the client's own budget
		a := s.get(t, "/", header...)
		expect(t, fmt.Sprint("status ", i), a.status, want)
		expect(t, "cookie", a.setCookie(), "")
	}
}

// In auto a cookie is set while nothing is short only if there is a budget for clients.
func TestCookieInAuto(t *testing.T) {
	addr := origin(t, named("origin"))
	for options, want := range map[string]bool{"auto": false, "auto {\nclient 10/s\n}": true} {
		s := serve(t, "reset_guard "+addr+" {\nrate_limit "+options+"\n}")
		expect(t, options, s.get(t, "/", navigating...).setCookie() != "", want)
	}
}

// Whoever would not set the cookie does not keep one behind it from doing so.
func TestCookieBehindACalmLimit(t *testing.T) {
	s := serve(t, "reset_guard_limit auto\nreset_guard "+origin(t, named("origin"))+" {\nrate_limit {\nclient 10/s\n}\n}")
	if s.get(t, "/", navigating...).setCookie() == "" {
		t.Error("got no cookie")
	}
}

// A cookie is good for the host that was asked for, whatever is made of that later.
func TestCookieWhereTheHostIsRewritten(t *testing.T) {
	s := serve(t, "request_header Host inside.example\nreset_guard_limit {\nclient 10/s\n}\nrespond {host}")
	first := s.get(t, "/", navigating...)
	expect(t, "page", first.body, "inside.example")
	cookie, _, _ := strings.Cut(first.setCookie(), ";")
	if cookie == "" {
		t.Fatal("got no cookie")
	}
	second := s.get(t, "/", append([]string{"Cookie", cookie}, navigating...)...)
	expect(t, "another cookie", second.setCookie(), "")
}

// An origin with a guard of its own does not replace the cookie of this one; its other
// cookies arrive.
func TestCookiesOfAnotherTier(t *testing.T) {
	foreign := "rg=I" + strings.Repeat("A", 53)
	addr := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", foreign+"; Path=/")
		w.Header().Add("Set-Cookie", "rg=short; Path=/")
		w.Header().Add("Set-Cookie", "session=1")
	})
	s := serve(t, "reset_guard "+addr+" {\nrate_limit {\nclient 10/s\n}\n}")
	a := s.get(t, "/", "Cookie", provenCookie(1))
	expect(t, "cookies", strings.Join(a.header.Values("Set-Cookie"), ", "), "rg=short; Path=/, session=1")
}

// Error pages and logs are told of the limit that refused, not of the first one.
func TestPlaceholdersOfTheLastLimit(t *testing.T) {
	s := serve(t, `route {
	reset_guard_limit {
		zone first
	}
	reset_guard_limit {
		zone second
		client 1/m burst 1
	}
	respond well
}
handle_errors {
	respond "{http.reset_guard.limit.zone} {http.reset_guard.limit.budget} {http.reset_guard.limit.decision}"
}`)
	header := []string{"Cookie", provenCookie(1)}
	expect(t, "first", s.get(t, "/", header...).status, http.StatusOK)
	expect(t, "second", s.get(t, "/", header...).body, "second client refused")
}

// What was refused since the last line is told when Caddy stops.
func TestRefusalsAreToldAtTheEnd(t *testing.T) {
	s := serveAdmin(t, "", "reset_guard "+origin(t, named("origin"))+" {\nrate_limit {\nclient 1/m burst 1\n}\n}")
	header := []string{"Cookie", provenCookie(1)}
	for _, want := range []int{200, 429} {
		expect(t, "status", s.get(t, "/", header...).status, want)
	}
	s.reload(t, "respond well")
	eventually(t, "a line", func() bool { return len(s.told(t, "requests refused by limits")) == 1 })
}

// Preflights say nothing of a key, and a page that its owner may not see does not
// take it away.
func TestWhatConfirmsKeys(t *testing.T) {
	addr := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/forbidden" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	s := serve(t, "reset_guard "+addr+" {\nrate_limit {\nidentity {header.X-Api-Key}\nclient 1/m burst 3\nnetwork {\nunproven 100/s\n}\n}\n}")
	client := newClient(t)
	ask := func(method, path, key string) int {
		return do(t, client, newRequest(t, method, s.url(path), nil, "X-Api-Key", key)).status
	}
	for range 6 { // no bucket of its own: it is not confirmed
		expect(t, "preflight", ask(http.MethodOptions, "/", "made up"), http.StatusOK)
	}
	expect(t, "first", ask(http.MethodGet, "/", "good"), http.StatusOK)
	expect(t, "forbidden", ask(http.MethodGet, "/forbidden", "good"), http.StatusForbidden)
	got := []int{ask(http.MethodGet, "/", "good"), ask(http.MethodGet, "/", "good"), ask(http.MethodGet, "/", "good")}
	expect(t, "budget", fmt.Sprint(got), "[200 200 429]")
}
