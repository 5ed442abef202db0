// SPDX-License-Identifier: Apache-2.0

// Trials that decide nothing, or not yet.

package health

import (
	"testing"
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
