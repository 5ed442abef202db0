// SPDX-License-Identifier: Apache-2.0

// What an operator is told of a zone.

package ratelimit

import (
	"math"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

func TestStats(t *testing.T) {
	policy, z := DefaultPolicy(), smallZone()
	now := simStart
	for i := range 3000 {
		now = now.Add(10 * time.Millisecond)
		r := provenRequest(simShared, uint64(i%50+1), now)
		z.Decide(&policy, &r, 0, now)
		r = Request{Addr: addrOf(i % 2 << 20)}
		z.Decide(&policy, &r, 0, now)
	}
	s := z.Stats(10, now)
	if len(s.Shared) != 1 || s.Shared[0].Prefix.Addr() != simShared || math.Abs(s.Shared[0].Users-50) > 8 {
		t.Errorf("shared addresses: got %+v, want one with 50 users", s.Shared)
	}
	if len(s.Offenders) != 2 || s.Offenders[0].Refused < 500 {
		t.Errorf("offenders: got %+v, want two", s.Offenders)
	}
	if s.Total != 0 || s.Dominant != nil || len(z.Counts()) != 3 {
		t.Errorf("got %+v, %+v", s, z.Counts())
	}
}

func TestPrivateAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"10.1.2.3": true, "127.0.0.1": true, "::1": true, "fe80::1": true, "fd00::1": true, "::ffff:192.168.1.1": true, "": true,
		"203.0.113.7": false, "2001:db8::1": false,
	} {
		var from netip.Addr // of a unix socket
		if addr != "" {
			from = netip.MustParseAddr(addr)
		}
		if got := (Dominant{Prefix: leafOf(from).prefix()}).Private(); got != want {
			t.Errorf("%q: got %v, want %v", addr, got, want)
		}
	}
}

// Offenders are those of now, and who was let pass is none.
func TestOffendersAreForgotten(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientBurst = 1
	ask := func(addr int, n int, at time.Duration) {
		for range n {
			r := provenRequest(addrOf(addr), uint64(addr), simStart)
			z.Decide(&p, &r, 0, simStart.Add(at))
		}
	}
	worst := func(at time.Duration) string {
		if top := z.Stats(1, simStart.Add(at)).Offenders; len(top) > 0 {
			return top[0].Prefix.Addr().String()
		}
		return ""
	}
	p.DryRun = true
	ask(3, 100, 0)
	p.DryRun = false
	ask(1, 100, 0)
	ask(2, 30, 2*offenderHalf)
	for _, step := range []struct {
		at   time.Duration
		want string
	}{{2 * offenderHalf, addrOf(2).String()}, {3 * offenderHalf, addrOf(2).String()}, {10 * offenderHalf, ""}, {200 * offenderHalf, ""}} {
		if got := worst(step.at); got != step.want {
			t.Errorf("at %v: got %q, want %q", step.at, got, step.want)
		}
	}
}

func TestOffendersAreBounded(t *testing.T) {
	var o offenders
	for i := range 100_000 {
		o.note(leafOf(addrOf(i)), 0)
		o.note(leafOf(simShared), 0)
	}
	top := o.top(3, 0)
	if len(o.list) != maxOffenders || len(o.at) != maxOffenders || len(top) != 3 {
		t.Fatalf("got %d, %d, %d entries", len(o.list), len(o.at), len(top))
	}
	if top[0].Prefix.Addr() != simShared || top[0].Refused != 100_000 || top[0].Error != 0 {
		t.Errorf("got %+v", top[0])
	}
}

// Of whom most was refused is told of the time since it was told last, whoever was
// worse before.
func TestWorstLately(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientBurst = 1
	for _, step := range []struct {
		asks map[int]int // address: requests
		want int         // address; 0: none
	}{{map[int]int{1: 100, 2: 20}, 1}, {map[int]int{1: 5, 2: 30}, 2}, {nil, 0}, {map[int]int{3: 4}, 3}} {
		for addr, n := range step.asks {
			for range n {
				r := provenRequest(addrOf(addr), uint64(addr), simStart)
				z.Decide(&p, &r, 0, simStart)
			}
		}
		worst, ok := z.WorstLately()
		if ok != (step.want > 0) || ok && worst.Addr() != addrOf(step.want) {
			t.Errorf("after %v: got %v, %v, want address %d", step.asks, worst, ok, step.want)
		}
	}
}

// Of two addresses that ask for as much, neither has nearly all traffic, though one of them
// shows keys that are confirmed.
func TestDominantIsNobodyOfTwo(t *testing.T) {
	z, p, now := smallZone(), DefaultPolicy(), simStart
	p.Base, p.Unproven = 1000, 1000
	one, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.9.2")
	for i := range 40 * 50 {
		now = now.Add(time.Second / 50)
		r := Request{Addr: one, Claim: strconv.Itoa(i), Look: uint64(i)}
		z.Confirm(&p, &r, z.Decide(&p, &r, 0, now), 0, now)
		r = Request{Addr: other, Look: uint64(i)}
		z.Decide(&p, &r, 0, now)
	}
	if d := z.Dominant(now); d != nil {
		t.Errorf("%v is said to have %.2f of all, it has 0.5", d.Prefix, d.Share)
	}
}
