// SPDX-License-Identifier: Apache-2.0

// A view with a clock of its own, and the words that the tests of ejection are
// written in.

package health

import (
	"testing"
	"time"
)

type rig struct {
	*View
	t      *testing.T
	clock  time.Duration
	events []Transition
}

func newRig(t *testing.T, hosts int) *rig { return newRigWith(t, hosts, DefaultEjectPolicy()) }

func newRigWith(t *testing.T, hosts int, policy EjectPolicy) *rig {
	t.Helper()
	r := &rig{t: t, View: NewPool(simBegin).View(policy), clock: time.Second}
	r.Sync(simOrigins(hosts), simBegin)
	return r
}

func (r *rig) now() time.Time { return simBegin.Add(r.clock) }

func (r *rig) host(i int) *Member { return (*r.origins.Load())[i].m }

// wait moves time on, a little more than by d.
func (r *rig) wait(d time.Duration) { r.clock += d + time.Millisecond }

// see observes an outcome of host i, ten milliseconds after the last one.
func (r *rig) see(i int, o Outcome) []Transition {
	r.clock += 10 * time.Millisecond
	events := r.Observe(r.host(i), o, r.now())
	r.events = append(r.events, events...)
	return events
}

// answers lets each of the hosts answer n times, in turn.
func (r *rig) answers(n int, hosts ...int) { r.answersIn(n, 0, hosts...) }

// answersIn is answers whose first bytes take so long.
func (r *rig) answersIn(n int, ttfb time.Duration, hosts ...int) {
	for range n {
		for _, i := range hosts {
			r.see(i, Outcome{TTFB: ttfb})
		}
	}
}

func fault(phase Phase) *Fault {
	return &Fault{Cause: Reset, Phase: phase, Side: SideUpstream, Weight: 1}
}

func brokenFault() *Fault {
	return &Fault{Cause: TLSExpired, Phase: PhaseTLS, Side: SideUpstream, Weight: 1, Trip: true}
}

// failUntilOut lets host i fail until it is ejected, and gives the transition.
func (r *rig) failUntilOut(i int, phase Phase) Transition {
	r.t.Helper()
	for range 20 {
		for _, e := range r.see(i, Outcome{Fault: fault(phase)}) {
			if e.To == Ejected {
				return e
			}
		}
	}
	r.t.Fatalf("host %d was not ejected for 20 failures in a row", i)
	return Transition{}
}

// untilDue moves on to the end of host i's ejection.
func (r *rig) untilDue(i int) {
	r.clock = max(r.clock, time.Duration(r.host(i).until.Load())+time.Millisecond)
}

// try claims a trial of host i and lets it end so.
func (r *rig) try(i int, f *Fault) []Transition {
	r.t.Helper()
	if !r.Claim(r.host(i), r.now()) {
		r.t.Fatalf("host %d gave out no trial", i)
	}
	return r.see(i, Outcome{Fault: f, Trial: true})
}

// passTrials brings host i back.
func (r *rig) passTrials(i int) []Transition {
	r.t.Helper()
	r.untilDue(i)
	var events []Transition
	for range trialsToReturn {
		events = r.try(i, nil)
	}
	return events
}

func (r *rig) wantState(i int, want State) {
	r.t.Helper()
	if got := r.host(i).State(); got != want {
		r.t.Errorf("host %d: got %s, want %s", i, got, want)
	}
}

// wantOne checks that exactly one thing happened.
func wantOne(t *testing.T, events []Transition, from, to State, reason Reason) Transition {
	t.Helper()
	if len(events) != 1 || events[0].From != from || events[0].To != to || events[0].Reason != reason {
		t.Fatalf("got %+v, want one transition from %s to %s: %s", events, from, to, reason)
	}
	return events[0]
}
