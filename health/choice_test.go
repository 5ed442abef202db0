// SPDX-License-Identifier: Apache-2.0

// Choosing an origin: the fit, the tried, the last resort.

package health

import (
	"math/rand/v2"
	"testing"
	"time"
)

// picks counts what is chosen for so many requests.
func (r *rig) picks(n int, q Request) []int {
	r.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	r.random = random.Uint64
	counts := make([]int, len(*r.origins.Load()))
	for range n {
		c, ok := r.Pick(q, r.now())
		if !ok || c.Member != r.host(c.Index) {
			r.t.Fatalf("got %+v, %v; want a choice that agrees with itself", c, ok)
		}
		counts[c.Index]++
	}
	return counts
}

func within(got, low, high int) bool { return got >= low && got <= high }

func TestPickSharesEquallyAmongEquals(t *testing.T) {
	for _, hosts := range []int{1, 2, 3, 10} {
		counts := newRig(t, hosts).picks(1000*hosts, Request{})
		for i, n := range counts {
			if !within(n, 850, 1150) && n != 1000 {
				t.Errorf("host %d of %d: got %d of %d requests, want about 1000", i, hosts, n, 1000*hosts)
			}
		}
	}
}

func TestPickPrefers(t *testing.T) {
	for _, c := range []struct {
		name      string
		setup     func(r *rig)
		low, high int // requests of 1000 that host 0 of two gets
	}{
		{"nothing", func(*rig) {}, 450, 550},
		{"the faster one, in proportion", func(r *rig) {
			r.see(0, Outcome{TTFB: 10 * time.Millisecond})
			r.see(1, Outcome{TTFB: 40 * time.Millisecond})
		}, 770, 830},
		{"the less busy one, in proportion", func(r *rig) { r.host(1).Begin() }, 630, 700},
		{"equal ones again after the end", func(r *rig) { r.host(1).Begin(); r.host(1).End() }, 450, 550},
		{"the one with more weight", func(r *rig) {
			r.Sync([]Origin{{Addr: "10.0.0.0:80", Weight: 3}, {Addr: "10.0.0.1:80"}}, r.now())
		}, 710, 790},
		{"what did not fail", func(r *rig) { r.see(1, Outcome{Fault: fault(PhaseWait)}) }, 830, 920},
		{"equal ones again after minutes", func(r *rig) {
			r.see(1, Outcome{Fault: fault(PhaseWait)})
			r.wait(time.Hour)
		}, 440, 560},
		{"what fails late over what fails fast", func(r *rig) {
			r.see(0, Outcome{TTFB: time.Second})
			r.see(1, Outcome{TTFB: 100 * time.Microsecond})
			for range 100 {
				r.clock += time.Millisecond
				r.host(1).failing.average(1, r.clock)
			}
		}, 900, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2)
			c.setup(r)
			if got := r.picks(1000, Request{})[0]; !within(got, c.low, c.high) {
				t.Errorf("got %d of 1000, want %d to %d", got, c.low, c.high)
			}
		})
	}
}

func TestPickAvoidsTriedAndEjected(t *testing.T) {
	r := newRig(t, 12)
	for i := range 5 {
		r.see(i, Outcome{Fault: brokenFault()})
		r.wantState(i, Ejected)
	}
	tried := []*Member{r.host(5), r.host(6)}
	for i, n := range r.picks(2000, Request{Tried: tried}) {
		if i < 7 && n > 0 || i >= 7 && !within(n, 300, 500) {
			t.Errorf("host %d: got %d of 2000, want none of the first seven, 400 of the others", i, n)
		}
	}
}

func TestPickFindsTheOnlyOneLeft(t *testing.T) {
	r := newRigWith(t, 1000, EjectPolicy{Base: time.Second, Max: time.Minute, MaxShare: 1})
	for i := range 1000 {
		if i != 617 {
			r.see(i, Outcome{Fault: brokenFault()})
		}
	}
	r.clock = 2 * time.Second // nobody's time is over
	for _, m := range *r.origins.Load() {
		m.m.until.Store(int64(time.Hour))
	}
	if got := r.picks(100, Request{})[617]; got != 100 {
		t.Errorf("got %d of 100, want all", got)
	}
}

// TestPickFailsOpen: one step after another, all origins become unfit.
func TestPickFailsOpen(t *testing.T) {
	r := newRigWith(t, 4, EjectPolicy{Base: time.Hour, Max: time.Hour, MaxShare: 1})
	a, b, c, d := r.host(0), r.host(1), r.host(2), r.host(3)
	pick := func(tried ...*Member) Choice {
		t.Helper()
		choice, ok := r.Pick(Request{Tried: tried, Trial: true}, r.now())
		if !ok {
			t.Fatal("got no choice")
		}
		return choice
	}
	r.see(0, Outcome{Fault: brokenFault()})
	r.Eject(b, 0, r.now())
	if got := pick(c); got.Member != d || got.LastResort {
		t.Errorf("one left that was not tried: got %+v, want host 3", got)
	}
	for range 20 {
		if got := pick(c, d); got.Member != c || !got.LastResort {
			t.Fatalf("all tried: got %+v, want host 2, which was not the last one", got)
		}
		if got := pick(c, d, c); got.Member != d || !got.LastResort {
			t.Fatalf("all tried twice: got %+v, want host 3", got)
		}
	}
	r.see(2, Outcome{Fault: brokenFault()})
	r.see(3, Outcome{Fault: fault(PhaseDial)})
	for range 20 {
		if got := pick(); got.Member != d {
			t.Fatalf("got %+v, want the only one that is not broken", got)
		}
	}
	r.Drain(d, r.now())
	for range 20 {
		if got := pick(); got.Member != a && got.Member != c || !got.LastResort {
			t.Fatalf("all broken: got %+v, want one of the broken ones, never one that an operator took out", got)
		}
	}
	r.Drain(a, r.now())
	r.Drain(c, r.now())
	if got, ok := r.Pick(Request{}, r.now()); ok {
		t.Errorf("all taken out by an operator: got %+v, want none", got)
	}
}

func TestPickGivesOutOneTrial(t *testing.T) {
	r := newRig(t, 3)
	r.failUntilOutFrom(50)
	r.untilDue(0)
	if got := r.picks(200, Request{})[0]; got != 0 {
		t.Fatalf("got %d requests of 200 that are unfit for a trial, want none", got)
	}
	trials, others := 0, 0
	for range 200 {
		c, ok := r.Pick(Request{Trial: true}, r.now())
		switch {
		case !ok:
			t.Fatal("got no choice")
		case c.Trial && c.Index == 0:
			trials++
		case c.Index == 0:
			others++
		}
	}
	if trials != 1 || others != 0 {
		t.Errorf("got %d trials and %d other requests at the probed origin, want 1 and 0", trials, others)
	}
}

func TestPickFromNone(t *testing.T) {
	if c, ok := newRig(t, 0).Pick(Request{Trial: true}, simBegin); ok {
		t.Errorf("got %+v from an empty view, want none", c)
	}
}

// TestPickBySameOdds draws each pair of origins equally often, also when few of
// them are fit and all are looked at.
func TestPickBySameOdds(t *testing.T) {
	r := newRig(t, 40)
	var tried []*Member
	for i := range 36 {
		tried = append(tried, r.host(i))
	}
	for i, n := range r.picks(4000, Request{Tried: tried})[36:] {
		if !within(n, 880, 1120) {
			t.Errorf("host %d: got %d of 4000, want about 1000", 36+i, n)
		}
	}
}
