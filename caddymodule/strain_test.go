// SPDX-License-Identifier: Apache-2.0

// How strain rises and falls.

package caddymodule

import (
	"math"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// Strain rises while upstreams are full, and fades when they are not.
func TestStrain(t *testing.T) {
	var s strain
	now := time.Now()
	tick := func(overloaded bool, n int) float64 {
		for range n {
			now = now.Add(strainTick)
			s.tickLocked(overloaded, now)
		}
		return math.Float64frombits(s.value.Load())
	}
	for _, step := range []struct {
		overloaded bool
		ticks      int
		low, high  float64
	}{
		{false, 10, 0, 0}, {true, 1, 0.19, 0.21}, {true, 10, 0.89, 0.91}, {true, 50, 0.89, 0.91},
		{false, 10, 0.69, 0.71}, {false, 36, 0, 0.001},
	} {
		if p := tick(step.overloaded, step.ticks); p < step.low || p > step.high {
			t.Errorf("%+v: got %v", step, p)
		}
	}
	tick(true, 10)
	now = now.Add(time.Minute) // nobody has asked
	if p := tick(false, 1); p > 0 {
		t.Errorf("after a minute: got %v, want 0", p)
	}
}

// An upstream that gets no requests does not hide that all others are full.
func TestStrainIsThatOfUpstreamsInUse(t *testing.T) {
	full, idle := concurrency.NewLimiter(time.Now()), concurrency.NewLimiter(time.Now())
	full.SetPressure(0.5) // is evidence of overload
	full.SetCeiling(10)
	for range 10 {
		full.Take()
	}
	for _, tc := range []struct {
		name  string
		gated []*concurrency.Limiter
		want  bool
	}{
		{"none", nil, false},
		{"all in use are full", []*concurrency.Limiter{full}, true},
		{"one in use has room", []*concurrency.Limiter{full, idle}, false},
	} {
		s := &site{gated: tc.gated}
		s.roster.Store(&roster{loads: []*originLoad{{limiter: full}, {limiter: idle}}})
		if got := s.overloaded(); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
