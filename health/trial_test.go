// SPDX-License-Identifier: Apache-2.0

// Trials that decide nothing, or not yet.

package health

import (
	"testing"
	"time"
)

func TestTrialThatIsPushedBackIsFollowedLater(t *testing.T) {
	for name, c := range map[string]struct {
		fault *Fault
		pause bool
	}{
		"pushed back": {&Fault{Cause: Overloaded, Phase: PhaseHeaders}, true},
		"client gone": {&Fault{Cause: ClientGone, Phase: PhaseBody}, true},
		"never sent":  {new(Fault), false},
	} {
		r := newRig(t, 2)
		r.failUntilOutFrom(50)
		r.untilDue(0)
		r.try(0, c.fault)
		if got := r.Claim(r.host(0), r.now()); got == c.pause {
			t.Errorf("%s: another trial at once: got %t, want %t", name, got, !c.pause)
		}
		if r.wait(trialPause); c.pause && !r.Claim(r.host(0), r.now()) {
			t.Errorf("%s: no trial a second later", name)
		}
	}
}

// A client that reads slowly does not keep an origin out.
func TestTrialOfASlowReader(t *testing.T) {
	r := newRig(t, 2)
	r.failUntilOutFrom(50)
	r.untilDue(0)
	for range trialsToReturn {
		if !r.Claim(r.host(0), r.now()) {
			t.Fatal("no trial was given out")
		}
		r.TrialBegun(r.host(0), r.now())
		if r.Claim(r.host(0), r.now()) {
			t.Error("another trial was given out at once")
		}
		r.wait(trialPause)
	}
	for range trialsToReturn {
		r.wantState(0, Probing)
		r.see(0, Outcome{Trial: true})
	}
	r.wantState(0, Healthy)
}

// An origin that can be connected to now and then is not back at each first
// success.
func TestProbesMustSucceedAsOftenAsItWasOut(t *testing.T) {
	r := newRig(t, 2)
	r.answers(50, 0, 1)
	r.failUntilOut(0, PhaseDial)
	for level := 1; level <= 3; level++ {
		for n := 1; n <= level; n++ {
			r.wantState(0, Ejected)
			if n == level && level > 1 { // one that fails in between
				r.Probed(r.host(0), "", r.now())
				for range level - 1 {
					r.Probed(r.host(0), PhaseDial, r.now())
					r.Probed(r.host(0), PhaseDial, r.now()) // another site's
					r.wait(time.Second)
				}
				r.wantState(0, Ejected)
			}
			events := r.Probed(r.host(0), PhaseDial, r.now())
			if n == level {
				wantOne(t, events, Ejected, Healthy, ReasonProbed)
			}
			r.wait(time.Second)
		}
		r.answers(100, 1)
		r.failUntilOut(0, PhaseDial)
	}
}

func TestMaxShareIsToldNowAndThen(t *testing.T) {
	r := newRig(t, 4)
	r.answers(50, 0, 1, 2, 3)
	for i := range 2 {
		r.see(i, Outcome{Fault: brokenFault()})
	}
	r.events = nil
	for range 200 { // an answer and a fault in turn, for four seconds
		r.see(2, Outcome{})
		r.see(2, Outcome{Fault: brokenFault()})
	}
	wantOne(t, r.events, Healthy, Healthy, ReasonMaxShare)
}
