// SPDX-License-Identifier: Apache-2.0

// What a transition tells.

package health

import (
	"testing"
	"time"
)

func TestTransitionsCountWhoIsLeft(t *testing.T) {
	r := newRig(t, 4)
	r.answers(50, 0, 1, 2, 3)
	if e := r.failUntilOut(0, PhaseWait); e.Upstreams != 4 || e.Out != 1 || e.Phase != PhaseWait || e.Side != SideUpstream {
		t.Errorf("ejected: got %+v, want 1 of 4 out, by a fault of the upstream's in phase wait", e)
	}
	if e := wantOne(t, r.Drain(r.host(1), r.now()), Healthy, Draining, ReasonManual); e.Upstreams != 4 || e.Out != 2 {
		t.Errorf("drained: got %d of %d out, want 2 of 4", e.Out, e.Upstreams)
	}
	r.untilDue(0)
	began := r.host(0).left
	e := wantOne(t, r.passTrials(0), Probing, Healthy, ReasonTrialPassed)
	if e.Upstreams != 4 || e.Out != 1 || e.Trials != trialsToReturn || e.Lasted != r.clock-began {
		t.Errorf("returned: got %+v, want 1 of 4 out, three trials, after %s", e, r.clock-began)
	}
}

// One that is left has no peers; the end of its fault says so as well.
func TestFaultOfTheOnlyOneLeft(t *testing.T) {
	for hosts, out := range map[int]int{1: 0, 2: 1} {
		r := newRig(t, hosts)
		r.answers(50, 0)
		if out > 0 {
			r.Eject(r.host(1), 0, r.now())
		}
		for range 40 {
			r.see(0, Outcome{Fault: fault(PhaseDial)})
		}
		e := wantOne(t, r.events, Healthy, Healthy, ReasonPoolFault)
		if !e.Alone || e.Upstreams != hosts || e.Out != out || e.Phase != PhaseDial || e.Own == 0 {
			t.Errorf("got %+v, want the only one left, %d of %d out", e, out, hosts)
		}
		begin := r.clock - 40*10*time.Millisecond
		r.answers(3000, 0)
		e = r.events[len(r.events)-1]
		if e.Reason != ReasonPoolRecovered || !e.Alone || e.Lasted < 10*time.Second || e.Lasted > r.clock-begin {
			t.Errorf("got %+v, want the end of it, after ten seconds or more", e)
		}
	}
}

func TestSlowEjectionHasFiguresOfItsOwn(t *testing.T) {
	r := newRig(t, 3)
	for range 100 {
		r.see(1, Outcome{TTFB: 80 * time.Millisecond})
		r.see(2, Outcome{TTFB: 100 * time.Millisecond})
	}
	for range 60 { // more than a second
		r.see(0, Outcome{TTFB: 3 * time.Second})
		r.see(1, Outcome{TTFB: 80 * time.Millisecond})
	}
	e := wantOne(t, r.events, Healthy, Ejected, ReasonSlow)
	if !e.Slow || e.Latency != 3*time.Second || e.PeersMedian < 60*time.Millisecond || e.PeersMedian > 120*time.Millisecond || e.Cause != "" {
		t.Errorf("got %+v, want a slow one with both latencies", e)
	}
	// Few answers make a median to look at, although none to judge others by.
	if m := r.Standing(r.now())[0].Median; m < 2*time.Second || m > 4*time.Second {
		t.Errorf("got a median of %s, want some 3s", m)
	}
	r.untilDue(0)
	if !r.Claim(r.host(0), r.now()) {
		t.Fatal("no trial was given out")
	}
	e = wantOne(t, r.see(0, Outcome{TTFB: 3 * time.Second, Trial: true}), Probing, Ejected, ReasonTrialFailed)
	if !e.Slow || e.Latency != 3*time.Second {
		t.Errorf("got %+v, want the figures of a slow trial", e)
	}
}
