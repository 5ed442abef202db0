// SPDX-License-Identifier: Apache-2.0

// Zones of upstreams: when there are any, whose, and for how long.

package caddymodule

import (
	"testing"
	"time"
)

func TestZonesOfUpstreams(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	limiters := func(generation int64, budgets ...string) (all []*rateLimiter) {
		app := &App{generation: generation}
		for _, b := range budgets {
			all = append(all, &rateLimiter{app: app, budgets: b})
		}
		app.rateLimiters = all
		return all
	}
	p := r.acquire(1, "", []string{"a:1"}, now)
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
