// SPDX-License-Identifier: Apache-2.0

// How strain rises and falls.

package caddymodule

import (
	"math"
	"testing"
	"time"
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
