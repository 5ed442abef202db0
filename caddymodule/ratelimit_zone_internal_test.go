// SPDX-License-Identifier: Apache-2.0

// Zones of upstreams: when there are any, and how big.

package caddymodule

import (
	"testing"
	"time"
)

func TestZonesAreMadeWhenAskedFor(t *testing.T) {
	r, now := newRegistry(), time.Now()
	t.Cleanup(func() { _ = r.Destruct() })
	p := r.acquire(1, "", []string{"a:1"}, now)
	if p.rates.Load() != nil {
		t.Error("there is a zone, though nobody limits")
	}
	z := r.ratesOf(p, now)
	if z == nil || r.ratesOf(p, now) != z {
		t.Errorf("got %p, then another one", z)
	}
	next := r.acquire(2, "", []string{"a:1"}, now) // a reload takes hold before it lets go
	r.release(p, now)
	if next != p || r.ratesOf(p, now) != z {
		t.Error("the zone was lost over a reload")
	}
	r.release(next, now)
	if p.rates.Load() != nil || r.ratesOf(p, now) != nil {
		t.Error("the zone is kept for nobody")
	}
}
