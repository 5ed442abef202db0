// SPDX-License-Identifier: Apache-2.0

// Whatever happens to a pool, in whatever order: what must always hold.

package health

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// poolMachine draws what requests, operators and reloads may do to a pool.
type poolMachine struct {
	*View
	clock  time.Duration
	trials []*Member // given out and not reported
}

func (s *poolMachine) now() time.Time { return simBegin.Add(s.clock) }

func (s *poolMachine) wait(t *rapid.T) {
	s.clock += time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "wait"))
}

func (s *poolMachine) member(t *rapid.T) *Member {
	list := *s.origins.Load()
	return list[rapid.IntRange(0, len(list)-1).Draw(t, "host")].m
}

var rapidFaults = []*Fault{
	nil, fault(PhaseDial), fault(PhaseTLS), fault(PhaseWait), brokenFault(),
	{Cause: Closed, Phase: PhaseStale, Side: SideUpstream, Weight: .25},
	{Cause: Unreachable, Phase: PhaseDial, Side: SideNetwork, Weight: .5},
	{Cause: ClientGone, Phase: PhaseWait, Side: SideClient},
}

// outcomes lets an origin end the same way several times.
func (s *poolMachine) outcomes(t *rapid.T) {
	m := s.member(t)
	o := Outcome{Fault: rapid.SampledFrom(rapidFaults).Draw(t, "fault")}
	o.TTFB = time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "ttfb"))
	for range rapid.IntRange(1, 30).Draw(t, "times") {
		s.clock += 6 * time.Millisecond
		s.observe(t, m, o)
	}
}

// observe checks that what counts for nothing changes nothing.
func (s *poolMachine) observe(t *rapid.T, m *Member, o Outcome) {
	if o.Fault == nil || o.Fault.Weight > 0 {
		s.Observe(m, o, s.now())
		return
	}
	before := s.Standing(s.now())
	for _, e := range s.Observe(m, o, s.now()) {
		if e.Reason != ReasonPoolRecovered { // by the time that passed
			t.Fatalf("a fault of weight 0 led to %+v", e)
		}
	}
	for i, after := range s.Standing(s.now()) {
		if after != before[i] {
			t.Fatalf("a fault of weight 0 changed %+v to %+v", before[i], after)
		}
	}
}

// pick sends a request and reports at once, unless it is a trial.
func (s *poolMachine) pick(t *rapid.T) {
	r := Request{Trial: rapid.Bool().Draw(t, "trial")}
	c, ok := s.Pick(r, s.now())
	takenOut := 0
	for _, e := range *s.origins.Load() {
		if e.m.isTakenOut(s.pool.at(s.now())) {
			takenOut++
		}
	}
	switch {
	case ok == (takenOut == len(*s.origins.Load())):
		t.Fatalf("got %v, while operators took out %d of %d", ok, takenOut, len(*s.origins.Load()))
	case ok && c.Trial && !r.Trial:
		t.Fatal("a request was made a trial that must not be one")
	case ok && c.Trial:
		s.trials = append(s.trials, c.Member)
	}
}

func (s *poolMachine) endTrial(t *rapid.T) {
	if len(s.trials) == 0 {
		t.Skip()
	}
	m := s.trials[0]
	s.trials = s.trials[1:]
	s.Observe(m, Outcome{Fault: rapid.SampledFrom(rapidFaults).Draw(t, "fault"), Trial: true}, s.now())
}

func (s *poolMachine) order(t *rapid.T) {
	m := s.member(t)
	switch rapid.IntRange(0, 4).Draw(t, "order") {
	case 0:
		s.Eject(m, time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "for")), s.now())
	case 1:
		s.Drain(m, s.now())
	case 2, 3:
		s.Restore(m, s.now())
	case 4:
		s.Probed(m, rapid.SampledFrom([]Phase{PhaseDial, PhaseTLS, PhaseBody}).Draw(t, "reached"), s.now())
	}
}

func (s *poolMachine) sync(t *rapid.T) {
	s.Sync(simOrigins(rapid.IntRange(1, 8).Draw(t, "hosts")), s.now())
}

// check holds the sums against what they are sums of, and the limit against both.
func (s *poolMachine) check(t *rapid.T) {
	active, out := 0, 0
	for _, e := range *s.origins.Load() {
		if e.m.manual.Load() {
			continue
		}
		active++
		if e.m.isOut() {
			out++
		}
		if score := e.m.faults.score; !(score >= 0 && score <= ceiling) {
			t.Fatalf("got score %v, want 0 to %v", score, ceiling)
		}
	}
	if active != s.pool.active || out != s.pool.out {
		t.Fatalf("counted %d active and %d out, the pool says %d and %d", active, out, s.pool.active, s.pool.out)
	}
	if limit := s.policy.maxOut(active); out > limit {
		t.Fatalf("got %d of %d out, want at most %d", out, active, limit)
	}
}

func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := DefaultEjectPolicy()
		policy.MaxShare = rapid.SampledFrom([]float64{.01, .3, .5, 1}).Draw(t, "share")
		s := &poolMachine{View: NewPool(simBegin).View(policy), clock: time.Second}
		s.Sync(simOrigins(rapid.IntRange(1, 8).Draw(t, "hosts")), simBegin)
		t.Repeat(map[string]func(*rapid.T){
			"": s.check, "wait": s.wait, "outcomes": s.outcomes, "more_outcomes": s.outcomes,
			"pick": s.pick, "end_trial": s.endTrial, "order": s.order, "sync": s.sync,
		})
	})
}
