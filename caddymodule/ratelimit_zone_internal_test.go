// SPDX-License-Identifier: Apache-2.0

// Zones of upstreams: when there are any, whose, and for how long.

package caddymodule

import (
	"testing"
	"time"
)

// limiterOf is one whose upstreams are known to be a pool's.
func limiterOf(app *App, p *sharedPool, budgets string, clientRate float64) *rateLimiter {
	l := &rateLimiter{app: app, budgets: budgets, site: &site{shared: p}}
	l.policy.ClientRate, l.policy.ClientBurst = clientRate, 10*clientRate
	l.site.roster.Store(new(roster))
	app.rateLimiters = append(app.rateLimiters, l)
	return l
}

func TestZonesOfUpstreams(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	p := r.acquire(1, "", []string{"a:1"}, now)
	limiters := func(generation int64, budgets ...string) (all []*rateLimiter) {
		app := &App{generation: generation}
		for _, b := range budgets {
			all = append(all, limiterOf(app, p, b, 1))
		}
		return all
	}
	if len(p.rates) > 0 {
		t.Error("there is a zone, though nobody limits")
	}
	first := limiters(1, "loose", "strict")
	loose, strict := r.ratesOf(p, first[0], now), r.ratesOf(p, first[1], now)
	if loose == nil || loose == strict || r.ratesOf(p, first[0], now) != loose {
		t.Errorf("got %p, %p, want one for each of the budgets", loose, strict)
	}

	// A reload whose site asks only later, as one with dynamic upstreams does.
	r.release(p, now)
	r.forgetRates(1)
	second := limiters(2, "stricter", "loose")
	next := r.acquire(2, "", []string{"a:1"}, now)
	if next != p || r.ratesOf(p, second[1], now) != loose {
		t.Error("the zone was lost over a reload")
	}
	if r.ratesOf(p, second[0], now) != strict {
		t.Error("the zone was lost because its budgets changed")
	}

	third := limiters(3, "loose")
	r.forgetRates(2)
	if r.ratesOf(p, third[0], now) != loose {
		t.Error("the zone was lost over another reload")
	}
	r.forgetRates(3)
	if len(p.rates) != 1 || p.rates["loose"] != loose {
		t.Errorf("got %v, want only what the last configuration has asked for", p.rates)
	}
	r.release(p, now)
	r.forgetRates(4)
	if len(p.rates) != 0 || r.ratesOf(p, limiters(5, "loose")[0], now) != nil {
		t.Error("the zone is kept for nobody")
	}
}

// A reload takes zones over before anybody has asked for them.
func TestZonesAreTakenOverAtStart(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	p := r.acquire(1, "", []string{"a:1"}, now)
	rates := r.ratesOf(p, limiterOf(&App{generation: 1}, p, "first", 1), now)
	for generation := range int64(5) {
		next := &App{generation: 2 + generation}
		l := limiterOf(next, p, []string{"first", "second"}[generation%2], 1)
		r.generations.Store(next.generation)
		r.takeOver(next.rateLimiters)
		r.forgetRates(next.generation - 1)
		if l.rates.Load() != rates {
			t.Fatalf("reload %d: the zone was lost", generation+1)
		}
	}
}

// Of several zones whose budgets are gone, each limiter takes that which is most like its
// own; and what another site's limiter has elsewhere does not keep it from that.
func TestZonesWhoseBudgetsChange(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	p, q := r.acquire(1, "", []string{"a:1"}, now), r.acquire(1, "", []string{"b:1"}, now)
	old := &App{generation: 1}
	loose, strict := r.ratesOf(p, limiterOf(old, p, "a loose one", 100), now), r.ratesOf(p, limiterOf(old, p, "a strict one", 1), now)
	next := &App{generation: 2}
	one, other := limiterOf(next, p, "stricter", 0.5), limiterOf(next, p, "looser", 200)
	limiterOf(next, q, "a strict one", 1)
	if got := r.ratesOf(p, one, now); got != strict {
		t.Errorf("the strict one: got %p, want %p", got, strict)
	}
	if got := r.ratesOf(p, other, now); got != loose {
		t.Errorf("the loose one: got %p, want %p", got, loose)
	}
}

// A configuration that does not start takes nothing from the one that runs.
func TestZonesOutliveFailedStarts(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	p := r.acquire(1, "", []string{"a:1"}, now)
	running := limiterOf(&App{generation: 1}, p, "budgets", 1)
	rates := r.ratesOf(p, running, now)
	for generation := range int64(3) {
		r.generations.Store(2 + generation)
		r.forgetRates(2 + generation)
	}
	if r.ratesOf(p, running, now) != rates {
		t.Error("the zone was lost")
	}
}
