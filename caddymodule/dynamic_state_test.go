// SPDX-License-Identifier: Apache-2.0

// What is known of upstreams that are not fixed: from modules, from DNS and from
// the request. It lasts from request to request and is bounded.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// untilEjected sends requests, all of which must be answered well, until the
// log tells of an ejection, and returns the upstream.
func untilEjected(t *testing.T, s *server, header ...string) string {
	t.Helper()
	client := newClient(t)
	for range 10_000 { // the choice of two soon avoids it
		got := do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...))
		expect(t, "body while one fails", got.body, "good")
		if lines := s.told(t, "upstream ejected"); len(lines) > 0 {
			return lines[0].text("upstream")
		}
	}
	t.Fatal("nobody was ejected in ten thousand requests")
	panic("unreachable")
}

// stayOut sends requests, none of which may go to the origin.
func stayOut(t *testing.T, s *server, requests func() int, header ...string) {
	t.Helper()
	before := requests()
	client := newClient(t)
	for range 50 {
		expect(t, "body", do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...)).body, "good")
	}
	expect(t, "requests that the ejected origin got", requests()-before, 0)
	expect(t, "ejections", len(s.told(t, "upstream ejected")), 1)
}

const longEjection = "eject {\n base 1h\n max 2h\n }"

// badOrigin fails every request.
func badOrigin(t *testing.T) *faultinject.Origin {
	return startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest, Handler: named("good")})
}

// The objects of such upstreams are made anew for each request; what is known of
// them is not, in whatever order and company they come.
func TestDynamicUpstreamIsEjected(t *testing.T) {
	for _, policy := range []string{"", "lb_policy round_robin"} {
		t.Run(policy, func(t *testing.T) {
			leaveNothing(t)
			bad, a, b := badOrigin(t), origin(t, named("good")), origin(t, named("good"))
			src := newSource(t, a, bad.Addr(), b)
			s := serve(t, fmt.Sprintf("%s {\n dynamic %s\n %s\n %s\n }", guarded, src, policy, longEjection))
			expect(t, "ejected", untilEjected(t, s), bad.Addr())
			stayOut(t, s, bad.Requests)
			src.set(bad.Addr(), b, a, origin(t, named("good")))
			stayOut(t, s, bad.Requests)
			src.set(a, b) // gone for a while
			stayOut(t, s, bad.Requests)
			src.set(a, b, bad.Addr())
			stayOut(t, s, bad.Requests)
		})
	}
}

func TestDynamicSRVIsEjected(t *testing.T) {
	leaveNothing(t)
	bad, a, b := badOrigin(t), origin(t, named("good")), origin(t, named("good"))
	dns := nameServer(t, portOf(a), portOf(bad.Addr()), portOf(b))
	s := serve(t, strings.Replace(dynamicSRV(guarded, dns), "lb_policy first", longEjection, 1))
	expect(t, "port of the ejected", portOf(untilEjected(t, s)), portOf(bad.Addr()))
	stayOut(t, s, bad.Requests)
}

// Each request names two upstreams; the one that fails is known by its address.
func TestPlaceholderUpstreamIsEjected(t *testing.T) {
	for _, policy := range []string{"", "lb_policy round_robin"} {
		t.Run(policy, func(t *testing.T) {
			leaveNothing(t)
			bad, a, b := badOrigin(t), origin(t, named("good")), origin(t, named("good"))
			s := serve(t, fmt.Sprintf("%s {http.request.header.X-One} {http.request.header.X-Other} {\n %s\n %s\n }",
				guarded, policy, longEjection))
			expect(t, "ejected", untilEjected(t, s, "X-One", a, "X-Other", bad.Addr()), bad.Addr())
			stayOut(t, s, bad.Requests, "X-One", b, "X-Other", bad.Addr())
			stayOut(t, s, bad.Requests, "X-One", bad.Addr(), "X-Other", a)
			// Where there is no other, it is better than nothing.
			if err := bad.SetFault(faultinject.None, 1); err != nil {
				t.Fatal(err)
			}
			expect(t, "body", s.get(t, "/", "X-One", bad.Addr(), "X-Other", bad.Addr()).body, "good")
		})
	}
}

// However many addresses there are, so many are remembered.
func TestKnownUpstreamsAreBounded(t *testing.T) {
	leaveNothing(t)
	const each = 50 // upstreams that a request has to choose from
	src := newSource(t)
	var placeholders []string
	for i := range each {
		placeholders = append(placeholders, fmt.Sprintf("{http.request.header.X-%d}", i))
	}
	for name, upstreams := range map[string]string{
		"dynamic":     fmt.Sprintf("{\n dynamic %s\n failover off\n }", src),
		"placeholder": join(placeholders...) + " {\n failover off\n }",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, guarded+" "+upstreams)
			client := newClient(t)
			most := health.MaxMembers + 4*each
			if patientHold() != "" { // the race detector makes it take a minute
				most = 1000
			}
			for n := 0; n < most; n += each {
				var addrs, header []string
				for i := range each {
					// Port 1 of an address in 127.0.0.0/8 refuses.
					addrs = append(addrs, fmt.Sprintf("127.%d.%d.2:1", 1+(n+i)>>8, (n+i)&0xff))
					header = append(header, fmt.Sprint("X-", i), addrs[i])
				}
				src.set(addrs...)
				expect(t, "status", do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...)).status, http.StatusBadGateway)
			}
			if n := caddymodule.KnownUpstreamsForTest(); n < min(most, health.MaxMembers)/2 || n > health.MaxMembers {
				t.Errorf("got %d of %d upstreams known, want at most %d, and about so many", n, most, health.MaxMembers)
			}
		})
	}
}
