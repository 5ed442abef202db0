// SPDX-License-Identifier: Apache-2.0

// What is taken for an origin's latency.

package health

import (
	"testing"
	"time"
)

// warm lets all hosts answer in that time, long enough for medians.
func (r *rig) warm(hosts int, ttfb time.Duration) {
	for range 150 {
		for i := range hosts {
			r.see(i, Outcome{TTFB: ttfb})
		}
	}
}

func (r *rig) latencyOf(i int) time.Duration { return r.Standing(r.now())[i].Latency }

func TestErrorsMakeNoOriginFaster(t *testing.T) {
	r := newRig(t, 3)
	r.warm(3, 50*time.Millisecond)
	for range 4000 { // 40 s
		r.see(0, Outcome{TTFB: time.Millisecond, Denied: true})
	}
	if got := r.latencyOf(0); got < 40*time.Millisecond {
		t.Errorf("after fast errors: got a latency of %s, want about the others' 50ms", got)
	}
	for range 500 {
		r.see(1, Outcome{TTFB: 200 * time.Millisecond, Denied: true})
	}
	if got := r.latencyOf(1); got < 190*time.Millisecond {
		t.Errorf("after slow errors: got a latency of %s, want 200ms", got)
	}
}

func TestErrorsAloneTellNoLatency(t *testing.T) {
	r := newRig(t, 3)
	r.see(0, Outcome{TTFB: time.Millisecond, Denied: true})
	if got := r.latencyOf(0); got != 0 {
		t.Errorf("got a latency of %s, want it to be unknown", got)
	}
}

func TestLongPollStarvesNobody(t *testing.T) {
	r := newRig(t, 3)
	r.warm(3, 8*time.Millisecond)
	r.see(0, Outcome{TTFB: time.Minute})
	if got := r.latencyOf(0); got < 60*time.Millisecond || got > 100*time.Millisecond {
		t.Errorf("got a latency of %s, want ten times the median of 8ms or so", got)
	}
}
