// SPDX-License-Identifier: Apache-2.0

// What holds whatever comes, and from however many goroutines.

package ratelimit

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The sum of what one address gets never exceeds the sum of its budgets: what
// its pools hold at first, and their highest rates since.
func TestNeverMoreThanTheBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := DefaultPolicy()
		p.Base = rapid.Float64Range(1, 20).Draw(t, "base")
		p.PerClient = rapid.Float64Range(0, 2).Draw(t, "per client")
		p.Unproven = rapid.Float64Range(1, 40).Draw(t, "unproven")
		z := newSeededZone(Size{Identities: 64, Addresses: 8, Sites: 8, Bins: 64}, [32]byte{}, simStart)
		now, passed := simStart, 0.0
		for range rapid.IntRange(1, 400).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			r := drawRequest(t, now)
			r.Addr, r.User = addrOf(1), ""
			if z.Decide(&p, &r, rapid.Float64Range(0, 1).Draw(t, "pressure"), now).Allowed {
				passed++
			}
		}
		if most := budgetBound(&p, now.Sub(simStart)); passed > most {
			t.Fatalf("got %v, want at most %v", passed, most)
		}
	})
}

// budgetBound is the most that 41 users of an address get in a time.
func budgetBound(p *Policy, d time.Duration) float64 {
	users := 60.0 * p.PerClient // 41, and the error of counting them
	proven, unproven := p.Base+users, p.Unproven+unprovenPerUser*users
	return 1 + proven*(provenSeconds+d.Seconds()) + unproven*(unprovenSeconds+d.Seconds())
}

// An identity never gets more than its own budget.
func TestNeverMoreThanAClientsBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := DefaultPolicy()
		p.ClientRate = rapid.Float64Range(0.1, 20).Draw(t, "rate")
		p.ClientBurst = float64(rapid.IntRange(1, 50).Draw(t, "burst"))
		z, now, passed := smallZone(), simStart, 0.0
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(-200, 1000).Draw(t, "ms")) * time.Millisecond)
			r := provenRequest(addrOf(rapid.IntRange(0, 3).Draw(t, "address")), 5, simStart)
			if z.Decide(&p, &r, 0, now).Allowed {
				passed++
			}
		}
		if most := p.ClientBurst + p.ClientRate*z.clock.since(now).Seconds() + 0.01; passed > most {
			t.Fatalf("got %v, want at most %v", passed, most)
		}
	})
}

// Refused requests change nothing for others: what an address that floods is
// refused, its neighbours in the network still get.
func TestRefusalsCostOthersNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := DefaultPolicy()
		size := Size{Identities: 8, Addresses: 8, Sites: 8, Bins: 1 << 14} // few bins collide
		flooded, quiet := newSeededZone(size, [32]byte{}, simStart), newSeededZone(size, [32]byte{}, simStart)
		neighbour := func(z *Zone) (passed int) {
			for i := range 100 {
				r := Request{Addr: addrOf(2), Look: uint64(i)}
				if z.Decide(&p, &r, 0, simStart).Allowed {
					passed++
				}
			}
			return passed
		}
		look := rapid.Uint64().Draw(t, "look")
		for range rapid.IntRange(0, 3000).Draw(t, "flood") {
			r := Request{Addr: addrOf(1), Look: look}
			flooded.Decide(&p, &r, 0, simStart)
		}
		if got, want := neighbour(flooded), neighbour(quiet); got < want {
			t.Fatalf("got %d, want %d", got, want)
		}
	})
}

// 64 goroutines on one zone: for the race detector, and for the sum.
func TestManyGoroutines(t *testing.T) {
	z, p := newSeededZone(Size{Identities: 64, Addresses: 64, Sites: 16, Bins: 256}, [32]byte{}, simStart), DefaultPolicy()
	p.Capacity = 600
	var passed, asked atomic.Int64
	var wg sync.WaitGroup
	for g := range uint64(64) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(g, 1))
			for i := range 300 {
				r := provenRequest(addrOf(random.IntN(90)), 1+random.Uint64N(200), simStart)
				if r.Token.Stage = Stage(random.IntN(3)); random.IntN(8) == 0 {
					r.User = "somebody"
				}
				now := simStart.Add(time.Duration(i) * 20 * time.Millisecond)
				d := z.Decide(&p, &r, random.Float64(), now)
				z.Issue(&p, &r, d, 0, now)
				asked.Add(1)
				if d.Allowed {
					passed.Add(1)
					z.Served(1)
				}
				if i%100 == 0 {
					z.Stats(5, now)
				}
			}
		})
	}
	wg.Wait()
	var total, allowed uint64
	for _, c := range z.Counts() {
		if total += c.N; c.Outcome != Refused {
			allowed += c.N
		}
	}
	if total != uint64(asked.Load()) || allowed != uint64(passed.Load()) {
		t.Errorf("counted %d of %d, and %d of %d allowed", total, asked.Load(), allowed, passed.Load())
	}
}

// Tokens that another key signed, or nobody, are nothing.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, uint16(80), uint64(1), 0.5, 1.0)
	z, p := smallZone(), AutoPolicy()
	f.Fuzz(func(t *testing.T, raw []byte, port uint16, id uint64, pressure, weight float64) {
		addr, _ := netip.AddrFromSlice(raw)
		r := Request{Addr: addr, Port: port, Look: id, Weight: weight, Token: Token{ID: id, Stage: Stage(id % 3), Home: id%2 == 0}}
		if d := z.Decide(&p, &r, pressure, simStart); !d.Allowed && d.RetryAfter < time.Second {
			t.Errorf("got %+v", d)
		}
	})
}
