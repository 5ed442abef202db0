// SPDX-License-Identifier: Apache-2.0

// Who passes the gate, and that it hears of places that become free.

package concurrency

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateOf is a gate before origins with such limits.
func gateOf(policy Policy, limits ...int) (*Gate, []*fixed) {
	g := NewGate(policy)
	var list []slots
	var origins []*fixed
	for _, limit := range limits {
		f := &fixed{limit: limit}
		list, origins = append(list, f), append(origins, f)
	}
	g.sync(list)
	return g, origins
}

func TestPolicyValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		policy Policy
		ok     bool
	}{
		"ok/zero":       {Policy{}, true},
		"ok/most":       {Policy{Mode: Enforce, Queue: LongestQueue, Reserve: true}, true},
		"bad/mode":      {Policy{Mode: 3}, false},
		"bad/long":      {Policy{Queue: LongestQueue + 1}, false},
		"bad/backwards": {Policy{Queue: -1}, false},
	} {
		if err := tc.policy.Validate(); (err == nil) != tc.ok {
			t.Errorf("%s: got %v, want ok %v", name, err, tc.ok)
		}
	}
}

func TestAdmit(t *testing.T) {
	for name, tc := range map[string]struct {
		policy   Policy
		limits   []int
		inflight []int
		request  Request
		pressure float64
		want     Reason
		would    Reason
	}{
		"no origins":       {Policy{Mode: Enforce}, nil, nil, Request{}, 0, NotRefused, NotRefused},
		"room":             {Policy{Mode: Enforce}, []int{4, 4}, []int{4, 3}, Request{}, 0, NotRefused, NotRefused},
		"full":             {Policy{Mode: Enforce}, []int{4, 4}, []int{4, 4}, Request{}, 0, QueueFull, NotRefused},
		"above":            {Policy{Mode: Enforce}, []int{4, 4}, []int{9, 3}, Request{}, 0, NotRefused, NotRefused},
		"observed":         {Policy{Mode: Observe}, []int{4}, []int{4}, Request{}, 0, NotRefused, QueueFull},
		"reserve":          {Policy{Mode: Enforce, Reserve: true}, []int{10}, []int{8}, Request{}, 0, QueueFull, NotRefused},
		"reserve, for it":  {Policy{Mode: Enforce, Reserve: true}, []int{10}, []int{9}, Request{Class: Critical}, 0, NotRefused, NotRefused},
		"pressed":          {Policy{}, []int{4}, []int{0}, Request{Class: Sheddable}, 1, Shed, NotRefused},
		"pressed, would":   {Policy{Mode: Observe}, []int{4}, []int{0}, Request{Class: Sheddable}, 1, NotRefused, Shed},
		"pressed, crucial": {Policy{}, []int{4}, []int{0}, Request{Class: Critical}, 1, NotRefused, NotRefused},
	} {
		t.Run(name, func(t *testing.T) {
			g, origins := gateOf(tc.policy, tc.limits...)
			for i, n := range tc.inflight {
				origins[i].inflight = n
			}
			g.SetPressure(tc.pressure)
			ticket, reason := g.Admit(t.Context(), tc.request, epoch)
			if reason != tc.want || ticket.Would != tc.would {
				t.Errorf("got %q, would %q, want %q and %q", reason, ticket.Would, tc.want, tc.would)
			}
		})
	}
}

func TestAutoEnforcesOnEvidenceOnly(t *testing.T) {
	l, g := NewLimiter(epoch), NewGate(Policy{})
	g.Sync([]*Limiter{l})
	defer g.Close()
	for range 2 * initialLimit {
		l.Take()
	}
	if g.Keeps(l, Default) {
		t.Error("full without evidence")
	}
	l.SetPressure(0.5)
	if !g.Keeps(l, Default) {
		t.Error("not full with evidence")
	}
}

// A ceiling holds with evidence and without, for every class, in every mode but
// Observe; the lower of limit and ceiling counts.
func TestCeiling(t *testing.T) {
	for name, tc := range map[string]struct {
		mode     Mode
		ceiling  int
		inflight int
		class    Class
		pressure float64
		want     Reason
		would    Reason
	}{
		"below":                {Auto, 3, 2, Default, 0, NotRefused, NotRefused},
		"reached":              {Auto, 3, 3, Default, 0, QueueFull, NotRefused},
		"reached, critical":    {Auto, 3, 3, Critical, 0, QueueFull, NotRefused},
		"reached, engaged":     {Auto, 3, 3, Default, .1, QueueFull, NotRefused},
		"reached, enforced":    {Enforce, 3, 3, Default, 0, QueueFull, NotRefused},
		"reached, observed":    {Observe, 3, 3, Default, 0, NotRefused, QueueFull},
		"none":                 {Auto, 0, 2 * initialLimit, Default, 0, NotRefused, NotRefused},
		"above the limit":      {Auto, 3 * initialLimit, 2 * initialLimit, Default, 0, NotRefused, NotRefused},
		"above, but engaged":   {Auto, 3 * initialLimit, 2 * initialLimit, Default, .1, QueueFull, NotRefused},
		"less than none":       {Auto, -1, 5, Default, 0, NotRefused, NotRefused},
		"limit above, engaged": {Auto, 3, 2, Default, .1, NotRefused, NotRefused},
	} {
		t.Run(name, func(t *testing.T) {
			l, g := NewLimiter(epoch), NewGate(Policy{Mode: tc.mode})
			g.Sync([]*Limiter{l})
			defer g.Close()
			for range tc.inflight {
				l.Take()
			}
			l.SetCeiling(tc.ceiling)
			l.SetPressure(tc.pressure)
			ticket, reason := g.Admit(t.Context(), Request{Class: tc.class}, epoch)
			if reason != tc.want || ticket.Would != tc.would {
				t.Errorf("got %q, would %q, want %q and %q", reason, ticket.Would, tc.want, tc.would)
			}
			if full := g.Keeps(l, tc.class); full != (tc.want == QueueFull || tc.would == QueueFull) {
				t.Errorf("Keeps: got %v", full)
			}
		})
	}
}

// A ceiling that is raised lets those pass that wait, and one that keeps requests
// away does not make the limit grow.
func TestCeilingRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g := NewLimiter(epoch), NewGate(Policy{Queue: LongestQueue})
		g.Sync([]*Limiter{l})
		defer g.Close()
		l.SetCeiling(1)
		if got := l.Limit(); got != 1 {
			t.Errorf("Limit: got %d, want 1", got)
		}
		l.Take()
		if got := l.Room(Default); got > 0 {
			t.Errorf("at the ceiling there is room for %d", got)
		}
		got := make(chan Reason)
		go func() {
			_, reason := g.Admit(t.Context(), Request{}, epoch)
			got <- reason
		}()
		synctest.Wait()
		if l.refused.Load() {
			t.Error("the limit is said to have kept a request away")
		}
		l.SetCeiling(0)
		if reason := <-got; reason != NotRefused {
			t.Errorf("got %q, want a place", reason)
		}
	})
}

func TestTicketsCountUntilUsed(t *testing.T) {
	g, _ := gateOf(Policy{Mode: Enforce}, 1)
	first, _ := g.Admit(t.Context(), Request{}, epoch)
	if _, reason := g.Admit(t.Context(), Request{}, epoch); reason != QueueFull {
		t.Errorf("second: got %q, want %q", reason, QueueFull)
	}
	first.Use()
	first.Use()
	if _, reason := g.Admit(t.Context(), Request{}, epoch); reason != NotRefused {
		t.Errorf("third: got %q, want none", reason)
	}
}

func TestSharedLimiterWakesAllItsGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(epoch)
		policy := Policy{Mode: Enforce, Queue: LongestQueue}
		a, b := NewGate(policy), NewGate(policy)
		a.Sync([]*Limiter{l})
		b.Sync([]*Limiter{l})
		var permits []Permit
		for range initialLimit {
			permits = append(permits, l.Take())
		}
		got := make(chan Reason)
		go func() {
			_, reason := b.Admit(t.Context(), Request{}, epoch)
			got <- reason
		}()
		synctest.Wait()
		permits[0].Done(0, Ignored, epoch)
		if reason := <-got; reason != NotRefused {
			t.Errorf("got %q, want a place", reason)
		}
		a.Close()
		b.Close()
		if n := len(*l.gates.Load()); n != 0 {
			t.Errorf("closed gates that are still told: %d", n)
		}
	})
}

func TestClosingLetsThoseWhoWaitPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, origins := gateOf(Policy{Mode: Enforce, Queue: LongestQueue}, 1)
		origins[0].inflight = 1
		got := make(chan Reason)
		go func() {
			_, reason := g.Admit(context.Background(), Request{}, epoch)
			got <- reason
		}()
		synctest.Wait()
		g.Close()
		if reason := <-got; reason != NotRefused {
			t.Errorf("got %q, want a place", reason)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for reason, want := range map[Reason][2]time.Duration{QueueFull: {1, 3}, WaitedLong: {1, 3}, Shed: {5, 10}} {
		seen := map[time.Duration]bool{}
		for range 500 {
			seen[RetryAfter(reason)] = true
		}
		if n := want[1] - want[0] + 1; len(seen) != int(n) || !seen[want[0]*time.Second] || !seen[want[1]*time.Second] {
			t.Errorf("%s: got %v, want %d to %d seconds", reason, seen, want[0], want[1])
		}
	}
}

// A probe at the least limit leaves room for ordinary requests beside the reserve.
func TestReserveInAProbe(t *testing.T) {
	g, list := enforcing(1)
	l := list[0]
	l.knee.limit, l.knee.base = leastLimit, float64(20*time.Millisecond)
	l.knee.beginProbe(0)
	l.Tick(epoch)
	if _, refused := g.Admit(t.Context(), Request{Class: Default}, epoch); refused != NotRefused {
		t.Errorf("with %d places in a probe: got %q, want a place", l.Room(Default), refused)
	}
}
