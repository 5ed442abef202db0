// SPDX-License-Identifier: Apache-2.0

// What one client can bring about, where clients are bound to origins.

package health

import (
	"testing"
	"time"
)

func newBoundRig(t *testing.T, hosts int) *rig {
	policy := DefaultEjectPolicy()
	policy.Bound = true
	return newRigWith(t, hosts, policy)
}

func TestSlowPageOfAClientEjectsNobody(t *testing.T) {
	r := newBoundRig(t, 4)
	for range 200 {
		for i := range 4 {
			r.see(i, Outcome{TTFB: 20 * time.Millisecond})
		}
	}
	for range 200 {
		r.see(0, Outcome{TTFB: 2 * time.Second})
	}
	r.wantState(0, Healthy)
}

func errorPage(client uint64) Outcome {
	return Outcome{Client: client, Fault: &Fault{Cause: Status, Phase: PhaseHeaders, Weight: 1, StatusCode: 502}}
}

func TestErrorPagesOfOneClientEjectNobody(t *testing.T) {
	r := newBoundRig(t, 4)
	r.answers(100, 0, 1, 2, 3)
	for range 100 {
		r.see(0, errorPage(1))
	}
	for range 100 {
		r.answers(1, 1, 2, 3)
		r.see(0, errorPage(1))
	}
	r.wantState(0, Healthy)
	for n := range 10 { // and of several clients do
		r.see(0, errorPage(uint64(2+n)))
	}
	r.wantState(0, Ejected)
}

func TestOneClientsResetsEject(t *testing.T) {
	r := newBoundRig(t, 4)
	r.answers(100, 0, 1, 2, 3)
	for range 10 {
		r.see(0, Outcome{Client: 1, Fault: fault(PhaseWait)})
	}
	r.wantState(0, Ejected)
}

// The failures of an origin that is out say nothing of those that are left.
func TestNoPoolFaultForWhatWasDealtWith(t *testing.T) {
	r := newRig(t, 4)
	r.answers(100, 0, 1, 2, 3)
	for range 10 {
		r.see(0, Outcome{Fault: fault(PhaseWait)})
		r.see(1, Outcome{Fault: fault(PhaseWait)})
	}
	for _, e := range r.events {
		if e.Reason == ReasonPoolFault {
			t.Errorf("got %+v, want the two origins ejected and no pool fault", e)
		}
	}
	r.wantState(2, Healthy)
	r.wantState(3, Healthy)
}

func TestNoPoolFaultForFewFailures(t *testing.T) {
	r := newRig(t, 3)
	for range 1500 { // 5 % everywhere
		for i := range 3 {
			o := Outcome{}
			if r.View.random()%20 == 0 {
				o.Fault = fault(PhaseWait)
			}
			r.see(i, o)
		}
	}
	for _, e := range r.events {
		if e.Reason == ReasonPoolFault && e.Rate < leastPoolFault {
			t.Errorf("got %+v, want no pool fault for less than a tenth", e)
		}
	}
}
