// SPDX-License-Identifier: Apache-2.0

// What limits remember over reloads, good ones and bad ones.

package caddymodule_test

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

// Budgets that are used up stay so over a reload, and are shared by all who name
// the zone.
func TestLimitsOutliveReloads(t *testing.T) {
	leaveNothing(t)
	addr := origin(t, named("origin"))
	for name, site := range map[string]string{
		"zone":              "reset_guard_limit {\nzone z1\nclient 1/m burst %d\n}\nrespond well",
		"zone of upstreams": "reset_guard " + addr + " {\nrate_limit {\nclient 1/m burst %d\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := serveAdmin(t, "servers {\n"+trusting+"\n}", fmt.Sprintf(site, 2))
			header := []string{"Cookie", "rg=" + caddymodule.MintForTest(uint64(len(name)), "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
			for _, want := range []int{200, 200, 429} {
				expect(t, "status", s.get(t, "/", header...).status, want)
			}
			s.reload(t, fmt.Sprintf(site, 3)) // another burst: policy is the configuration's
			expect(t, "status after a reload", s.get(t, "/", header...).status, http.StatusTooManyRequests)
		})
	}
}

// Whoever changes the budgets of one site keeps its counters, though another site has
// budgets as the old ones.
func TestCountersOutliveOtherBudgets(t *testing.T) {
	leaveNothing(t)
	a, b := origin(t, named("a")), origin(t, named("b"))
	site := "handle /a {\nreset_guard " + a + " {\nrate_limit {\nclient 1/m burst %d\n}\n}\n}\nhandle /b {\nreset_guard " + b + " {\nrate_limit {\nclient 1/m burst 2\n}\n}\n}"
	s := serveAdmin(t, "", fmt.Sprintf(site, 2))
	header := []string{"Cookie", provenCookie(77)}
	for _, want := range []int{200, 200, 429} {
		expect(t, "status", s.get(t, "/a", header...).status, want)
	}
	s.reload(t, fmt.Sprintf(site, 3))
	expect(t, "status after a reload that changes this site's burst", s.get(t, "/a", header...).status, http.StatusTooManyRequests)
}

// Reloads between which nobody asks forget nothing of upstreams that are still named.
func TestCountersOutliveReloadsInARow(t *testing.T) {
	leaveNothing(t)
	site := "reset_guard " + origin(t, named("a")) + " {\nrate_limit {\nclient 1/m burst %d\n}\n}"
	s := serveAdmin(t, "", fmt.Sprintf(site, 2))
	header := []string{"Cookie", provenCookie(78)}
	for _, want := range []int{200, 200, 429} {
		expect(t, "status", s.get(t, "/", header...).status, want)
	}
	for burst := range 3 {
		s.reload(t, fmt.Sprintf(site, 2+burst))
	}
	expect(t, "status after three reloads", s.get(t, "/", header...).status, http.StatusTooManyRequests)
}

// A configuration that is refused changes nothing for the one that runs.
func TestBadReloadKeepsTheZone(t *testing.T) {
	leaveNothing(t)
	s := serveAdmin(t, "", "reset_guard_limit {\nzone z2\nclient 1/m burst 1\n}\nrespond well")
	header := []string{"Cookie", "rg=" + caddymodule.MintForTest(3, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
	expect(t, "first", s.get(t, "/", header...).status, http.StatusOK)
	for range 3 {
		if s.tryLoad(t, "reset_guard_limit {\nzone z2\nclient 5/s\n}\n@m header_regexp X (\nrespond @m well") == nil {
			t.Fatal("a configuration with a broken expression was loaded")
		}
	}
	expect(t, "second", s.get(t, "/", header...).status, http.StatusTooManyRequests)
}

// Nor does one that cannot start, as a port of it is taken.
func TestFailedStartKeepsTheCounters(t *testing.T) {
	leaveNothing(t)
	site := "reset_guard " + origin(t, named("a")) + " {\nrate_limit {\nclient 1/m burst 2\n}\n}\nheader X-Build %d"
	s := serveAdmin(t, "", fmt.Sprintf(site, 0))
	header := []string{"Cookie", provenCookie(79)}
	for _, want := range []int{200, 200, 429} {
		expect(t, "status", s.get(t, "/", header...).status, want)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for i := range 8 { // Caddy starts apps in any order
		if s.tryLoad(t, fmt.Sprintf(site, i)+"\n}\nhttp://"+taken.Addr().String()+" {\nbind 127.0.0.1\nrespond x") == nil {
			t.Fatal("a configuration was loaded whose port is taken")
		}
	}
	awaitOneListener(t, s.addr)
	expect(t, "status after failed reloads", s.get(t, "/", header...).status, http.StatusTooManyRequests)
	s.reload(t, fmt.Sprintf(site, 9))
	expect(t, "status after a good one", s.get(t, "/", header...).status, http.StatusTooManyRequests)
}
