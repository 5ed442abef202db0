// SPDX-License-Identifier: Apache-2.0

// The networks around an address have room for it.

package ratelimit

import (
	"net/netip"
	"testing"
	"time"
)

// A big address has its pool in its network, whatever small ones ask there.
func TestSitesHaveRoomForTheirBiggestAddress(t *testing.T) {
	var g biggest
	for _, step := range []struct {
		at         time.Duration
		leaf, want float64
	}{{0, 5, 10}, {time.Second, 100, 100}, {2 * time.Second, 5, 100}, {3 * time.Minute, 5, 10}} {
		if got := g.atLeast(10, step.leaf, step.at); got != step.want {
			t.Errorf("at %v: got %v, want %v", step.at, got, step.want)
		}
	}
}

// Newcomers of a /64 with many proven people are vouched for, as those of an IPv4 address:
// its /56 has a pool as big as its own.
func TestNewcomersBesideProvenPeople(t *testing.T) {
	admitted := func(addr netip.Addr, pressure float64) (passed int) {
		z, p, now := NewZone(Size{}, simStart), DefaultPolicy(), simStart
		for step := range 60 * 20 {
			now = now.Add(time.Second / 20)
			for k := range 10 {
				r := provenRequest(addr, uint64(1+(step*10+k)%200), now)
				z.Decide(&p, &r, 0, now)
			}
			if step < 20*20 {
				continue
			}
			for k := range 10 { // 200 a second
				n := uint64(step*10 + k)
				r := Request{Addr: addr, Look: n}
				if k%2 == 0 {
					r.Token = Token{ID: 1e6 + n, Issued: now, First: now, Home: true}
				}
				if z.Decide(&p, &r, pressure, now).Allowed && step >= 40*20 {
					passed++
				}
			}
		}
		return passed / 20
	}
	for _, pressure := range []float64{0, 1} {
		v4, v6 := admitted(netip.MustParseAddr("192.0.2.1"), pressure), admitted(netip.MustParseAddr("2001:db8::1"), pressure)
		if v6 < v4*8/10 {
			t.Errorf("pressure %v: newcomers per second beside 200 proven people: %d at an IPv4 address, %d in a /64", pressure, v4, v6)
		}
	}
}
