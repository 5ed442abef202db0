// SPDX-License-Identifier: Apache-2.0

// Origins that turn bad and recover, outcome by outcome.

package health

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestFailingOriginIsEjectedWithFigures(t *testing.T) {
	r := newRig(t, 3)
	r.answers(100, 0, 1, 2)
	e := r.failUntilOut(0, PhaseWait)
	if e.Addr != "10.0.0.0:80" || e.From != Healthy || e.Reason != ReasonFailing || e.Cause != Reset || e.Level != 1 {
		t.Errorf("got %+v, want host 0 from healthy, failing by reset, level 1", e)
	}
	if e.Rate != 1 || e.Peers != 0 || e.Requests < 5 || e.Requests > 10 || e.Score < threshold {
		t.Errorf("got rate %v, peers %v, %d requests, score %v; want 1, 0, 5 to 10, 12 or more", e.Rate, e.Peers, e.Requests, e.Score)
	}
	if d := e.Until.Sub(r.now()); d < 4*time.Second || d > 6*time.Second {
		t.Errorf("got an ejection of %s, want 5s, give or take 20 %%", d)
	}
	r.answers(100, 1, 2)
	r.wantState(1, Healthy)
	r.wantState(2, Healthy)
}

func TestSingleOriginIsNeverEjected(t *testing.T) {
	for _, f := range []*Fault{fault(PhaseDial), fault(PhaseBody), brokenFault()} {
		r := newRig(t, 1)
		r.answers(50, 0)
		for range 100 {
			r.see(0, Outcome{Fault: f})
		}
		r.wantState(0, Healthy)
		wantOne(t, r.events, Healthy, Healthy, ReasonPoolFault)
		if !r.Pool().Faulty(r.now()) {
			t.Error("the pool is not faulty, want it to be")
		}
	}
}

func TestPoolFaultEndsWithHysteresis(t *testing.T) {
	r := newRig(t, 3)
	r.answers(100, 0, 1, 2)
	for range 30 {
		for i := range 3 {
			r.see(i, Outcome{Fault: fault(PhaseWait)})
		}
	}
	e := wantOne(t, r.events, Healthy, Healthy, ReasonPoolFault)
	if e.Cause != Reset || e.Rate == 0 || e.Requests == 0 {
		t.Errorf("got %+v, want the cause and the pool's figures", e)
	}
	r.answers(150, 0, 1, 2) // 4.5 s: too soon
	if !r.Pool().Faulty(r.now()) {
		t.Error("the fault ended within 5s, want 10s of quiet first")
	}
	r.answers(600, 0, 1, 2)
	if r.Pool().Faulty(r.now()) {
		t.Error("the fault did not end within 22s of health")
	}
	wantOne(t, r.events[1:], Healthy, Healthy, ReasonPoolRecovered)
	for i := range 3 {
		r.wantState(i, Healthy)
	}
}

func TestPoolFaultFadesWithoutRequests(t *testing.T) {
	r := newRig(t, 1)
	for range 20 {
		r.see(0, Outcome{Fault: fault(PhaseWait)})
	}
	if r.wait(5 * time.Second); !r.Pool().Faulty(r.now()) {
		t.Error("after 5s without requests: not faulty, want faulty")
	}
	if r.wait(10 * time.Second); r.Pool().Faulty(r.now()) {
		t.Error("after 15s without requests: faulty, want nothing to be known")
	}
}

func TestPeersThatAreMerelyUnlucky(t *testing.T) {
	r := newRig(t, 2) // no history at all: the gate cannot tell yet
	for range 8 {
		r.see(0, Outcome{Fault: fault(PhaseWait)})
	}
	if len(r.events) != 0 && r.events[0].Reason == ReasonPoolFault {
		t.Errorf("got %+v without one failure of a peer, want no pool fault", r.events)
	}
}

func TestWeightsCountInProportion(t *testing.T) {
	failures := func(weight float64) int {
		r := newRig(t, 3)
		r.answers(100, 0, 1, 2)
		f := fault(PhaseStale)
		f.Weight = weight
		for n := 1; n <= 200; n++ {
			r.answers(1, 1, 2)
			if len(r.see(0, Outcome{Fault: f})) > 0 {
				return n
			}
		}
		return -1
	}
	if whole, half, quarter := failures(1), failures(.5), failures(.25); half < 3*whole/2 || quarter < 3*half/2 {
		t.Errorf("got %d failures of weight 1, %d of .5, %d of .25; want about double each", whole, half, quarter)
	}
	if n := failures(0); n != -1 {
		t.Errorf("ejected after %d failures of weight 0, want never", n)
	}
}

func TestOneEventCountsOnce(t *testing.T) {
	r := newRig(t, 3)
	r.answers(100, 0, 1, 2)
	for range 50 { // all streams of one connection, over half a second
		r.see(0, Outcome{Fault: fault(PhaseBody), Conn: 7})
	}
	r.wantState(0, Healthy)
	r.wait(time.Second)
	for range 50 { // many connections within 5 ms
		r.clock += 90 * time.Microsecond
		r.Observe(r.host(0), Outcome{Fault: fault(PhaseBody)}, r.now())
	}
	r.wantState(0, Healthy)
	for conn := range uint64(10) { // ten connections, each by itself
		r.see(0, Outcome{Fault: fault(PhaseBody), Conn: 100 + conn})
	}
	r.wantState(0, Ejected)
}

func TestBrokenOriginIsEjectedAtOnce(t *testing.T) {
	r := newRig(t, 2)
	e := wantOne(t, r.see(1, Outcome{Fault: brokenFault()}), Healthy, Ejected, ReasonBroken)
	if e.Cause != TLSExpired {
		t.Errorf("got cause %q, want %q", e.Cause, TLSExpired)
	}
	r.see(0, Outcome{Fault: brokenFault()}) // the last one is kept
	r.wantState(0, Healthy)
}

func TestMaxShareKeepsTheRestAndSaysSoOnce(t *testing.T) {
	r := newRig(t, 5)
	r.answers(50, 0, 1, 2, 3, 4)
	for i := range 3 {
		for range 30 {
			r.see(i, Outcome{Fault: fault(PhaseDial)})
			r.answers(1, 3, 4)
		}
		r.answers(1, 1, 2)
	}
	r.wantState(0, Ejected)
	r.wantState(1, Ejected)
	r.wantState(2, Healthy)
	wantOne(t, r.events[2:], Healthy, Healthy, ReasonMaxShare)
}

func TestReturnByTrials(t *testing.T) {
	r := newRig(t, 2)
	r.answers(50, 0, 1)
	e := r.failUntilOut(0, PhaseWait)
	if r.Claim(r.host(0), e.Until.Add(-time.Millisecond)) {
		t.Fatal("a trial was given out before the ejection was over")
	}
	r.untilDue(0)
	if !r.Claim(r.host(0), r.now()) || r.Claim(r.host(0), r.now()) {
		t.Fatal("want one trial at a time")
	}
	r.wantState(0, Probing)
	r.see(0, Outcome{}) // a late answer, or one of last resort, is no trial
	r.see(0, Outcome{Trial: true})
	r.try(0, nil)
	r.wantState(0, Probing)
	wantOne(t, r.try(0, nil), Probing, Healthy, ReasonTrialPassed)
	if s := r.Standing(r.now())[0]; s.Share > .11 || s.Score != threshold/2 || s.Failing != 0 {
		t.Errorf("just returned: got share %v, score %v, failing %v; want a tenth, half of 12, 0", s.Share, s.Score, s.Failing)
	}
	if r.wait(5 * time.Second); math.Abs(r.Standing(r.now())[0].Share-.5) > .01 {
		t.Errorf("after 5s: got share %v, want .5", r.Standing(r.now())[0].Share)
	}
	if r.wait(5 * time.Second); r.Standing(r.now())[0].Share != 1 {
		t.Errorf("after 10s: got share %v, want 1", r.Standing(r.now())[0].Share)
	}
}

func TestEjectionsGrowAndAreForgiven(t *testing.T) {
	r := newRig(t, 2)
	r.answers(50, 0, 1)
	r.failUntilOut(0, PhaseWait)
	for _, step := range []struct {
		level int
		base  time.Duration
	}{{2, 10 * time.Second}, {3, 20 * time.Second}, {4, 40 * time.Second}, {5, time.Minute}, {6, time.Minute}} {
		r.untilDue(0)
		e := wantOne(t, r.try(0, fault(PhaseWait)), Probing, Ejected, ReasonTrialFailed)
		if d := e.Until.Sub(r.now()); e.Level != step.level || d < step.base*8/10 || d > step.base*12/10 {
			t.Errorf("got level %d for %s, want %d for %s, give or take 20 %%", e.Level, d, step.level, step.base)
		}
	}
	r.passTrials(0)
	r.wait(95 * time.Second) // makes up for three of six
	r.answers(200, 0, 1)
	if e := r.failUntilOut(0, PhaseWait); e.Level != 4 {
		t.Errorf("after 95s of health: got level %d, want 4", e.Level)
	}
}

func TestTrialOfWeightZeroDecidesNothing(t *testing.T) {
	r := newRig(t, 2)
	r.failUntilOutFrom(50)
	r.untilDue(0)
	if events := r.try(0, &Fault{Cause: ClientGone, Side: SideClient}); len(events) != 0 {
		t.Errorf("got %+v for a trial that the client broke off, want nothing", events)
	}
	r.wantState(0, Probing)
	r.wait(trialPause)
	r.passTrials(0) // the slot is free again, and three answers are needed still
	r.wantState(0, Healthy)
}

// failUntilOutFrom lets host 0 go out after so many answers of all.
func (r *rig) failUntilOutFrom(answers int) {
	for range answers {
		for i := range *r.origins.Load() {
			r.see(i, Outcome{})
		}
	}
	r.failUntilOut(0, PhaseWait)
}

func TestTrialThatNobodyReportsTimesOut(t *testing.T) {
	r := newRig(t, 2)
	r.failUntilOutFrom(50)
	r.untilDue(0)
	if !r.Claim(r.host(0), r.now()) {
		t.Fatal("no trial was given out")
	}
	if r.wait(29 * time.Second); r.Claim(r.host(0), r.now()) {
		t.Error("a second trial was given out after 29s, want none while the first may be under way")
	}
	if r.wait(time.Second); !r.Claim(r.host(0), r.now()) {
		t.Error("no second trial was given out after 30s")
	}
}

func TestProbeLiftsOnlyWhatItDisproves(t *testing.T) {
	for _, c := range []struct {
		name    string
		failed  Phase
		reached Phase
		lifts   bool
	}{
		{"ok/refused, connects", PhaseDial, PhaseDial, true},
		{"ok/refused, answers", PhaseDial, PhaseHeaders, true},
		{"ok/handshake failed, answers", PhaseTLS, PhaseHeaders, true},
		{"bad/handshake failed, connects", PhaseTLS, PhaseDial, false},
		{"bad/resets requests, connects", PhaseWait, PhaseDial, false},
		{"bad/resets requests, answers", PhaseWait, PhaseBody, false},
		{"bad/cuts bodies, answers", PhaseBody, PhaseBody, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2)
			r.answers(50, 0, 1)
			r.failUntilOut(0, c.failed)
			events := r.Probed(r.host(0), c.reached, r.now())
			if c.lifts {
				wantOne(t, events, Ejected, Healthy, ReasonProbed)
			} else if len(events) != 0 {
				t.Errorf("got %+v, want the ejection to last", events)
			}
		})
	}
}

func TestOperatorsOrders(t *testing.T) {
	r := newRig(t, 2)
	a := r.host(0)
	e := wantOne(t, r.Eject(a, time.Minute, r.now()), Healthy, Ejected, ReasonManual)
	if e.Until != r.now().Add(time.Minute) {
		t.Errorf("got until %s, want a minute from now", e.Until)
	}
	if events := r.Probed(a, PhaseBody, r.now()); len(events) != 0 {
		t.Errorf("a probe overruled the operator: %+v", events)
	}
	for range 30 { // the other one is alone now
		r.see(1, Outcome{Fault: fault(PhaseDial)})
	}
	r.wantState(1, Healthy)
	r.passTrials(0)
	r.wantState(0, Healthy)

	wantOne(t, r.Drain(a, r.now()), Healthy, Draining, ReasonManual)
	if r.wait(time.Hour); r.Claim(a, r.now()) || r.Fitness(a, true, r.now()) == Fit {
		t.Error("a draining origin takes requests")
	}
	wantOne(t, r.Restore(a, r.now()), Draining, Healthy, ReasonManual)
	if s := r.Standing(r.now())[0]; s.Score != 0 || s.Manual {
		t.Errorf("restored: got %+v, want no evidence and no order", s)
	}
	if events := r.Restore(a, r.now()); events != nil {
		t.Errorf("restored twice: got %+v, want nothing", events)
	}
	if e := wantOne(t, r.Eject(a, 0, r.now()), Healthy, Ejected, ReasonManual); !e.Until.IsZero() {
		t.Errorf("ejected until restored: got until %s, want none", e.Until)
	}
}

func TestOrderThatShrinksThePoolLetsOthersReturn(t *testing.T) {
	r := newRig(t, 2)
	r.failUntilOutFrom(50)
	events := r.Drain(r.host(1), r.now())
	if len(events) != 2 || events[1].Addr != "10.0.0.0:80" || events[1].To != Healthy || events[1].Reason != ReasonMaxShare {
		t.Errorf("got %+v, want the drained origin and the return of the other one", events)
	}
}

func TestFailedTrialAfterAnOrderCountsAsOthers(t *testing.T) {
	r := newRig(t, 4)
	r.Eject(r.host(0), time.Second, r.now())
	r.answers(50, 1, 2, 3)
	r.untilDue(0)
	r.try(0, fault(PhaseDial))
	r.wantState(0, Ejected)
	if r.pool.active != 4 || r.pool.out != 1 || r.Standing(r.now())[0].Manual {
		t.Errorf("got %d active and %d out, want 4 and 1, by the pool's decision", r.pool.active, r.pool.out)
	}
}

func TestOffEjectsNobody(t *testing.T) {
	r := newRigWith(t, 3, EjectPolicy{Off: true})
	r.answers(50, 0, 1, 2)
	for range 50 {
		r.see(0, Outcome{Fault: fault(PhaseDial)})
		r.see(0, Outcome{Fault: brokenFault()})
	}
	r.wantState(0, Healthy)
	if s := r.Standing(r.now())[0]; s.Failing < .5 {
		t.Errorf("got %v failing, want it to weigh in the choice all the same", s.Failing)
	}
	r.Eject(r.host(1), time.Second, r.now())
	r.untilDue(1)
	wantOne(t, r.try(1, fault(PhaseDial)), Probing, Healthy, ReasonMaxShare)
}

func TestSlowOriginIsEjected(t *testing.T) {
	r := newRig(t, 3)
	answer := func(n int, slow time.Duration) {
		for range n {
			r.see(0, Outcome{TTFB: slow})
			r.see(1, Outcome{TTFB: 80 * time.Millisecond})
			r.see(2, Outcome{TTFB: 100 * time.Millisecond})
		}
	}
	answer(100, 90*time.Millisecond)
	answer(100, 280*time.Millisecond) // not four times as slow
	r.wantState(0, Healthy)
	answer(20, 3*time.Second)
	r.wantState(0, Healthy) // not for as short a time
	answer(40, 3*time.Second)
	e := wantOne(t, r.events, Healthy, Ejected, ReasonSlow)
	if e.Rate < .5 || e.Peers != 0 {
		t.Errorf("got rate %v and peers %v, want more than half slow, and none", e.Rate, e.Peers)
	}
	r.untilDue(0)
	if !r.Claim(r.host(0), r.now()) {
		t.Fatal("no trial was given out")
	}
	wantOne(t, r.see(0, Outcome{TTFB: 3 * time.Second, Trial: true}), Probing, Ejected, ReasonTrialFailed)
	if events := r.Probed(r.host(0), PhaseBody, r.now()); len(events) != 0 {
		t.Errorf("a probe lifted an ejection for slowness: %+v", events)
	}
}

func TestFastOriginsAreNotSlow(t *testing.T) {
	r := newRig(t, 2)
	for i := range 2000 { // forty times the median, and nobody notices
		ttfb := 5 * time.Millisecond
		if i > 500 {
			ttfb = 200 * time.Millisecond
		}
		r.see(0, Outcome{TTFB: ttfb})
		r.see(1, Outcome{TTFB: 5 * time.Millisecond})
	}
	r.wantState(0, Healthy)
}

func TestClockThatStepsBack(t *testing.T) {
	r := newRig(t, 3)
	r.answers(100, 0, 1, 2)
	r.clock = time.Second // from 4 s
	r.answers(100, 0, 1, 2)
	r.failUntilOut(0, PhaseWait)
	if i := slices.IndexFunc(r.events, func(e Transition) bool { return e.Addr != "10.0.0.0:80" }); i >= 0 {
		t.Errorf("got %+v, want nothing but host 0's ejection", r.events[i])
	}
}

func TestSinceIsWhenTheStateBegan(t *testing.T) {
	r := newRig(t, 3)
	since := func(i int) time.Time { return r.Standing(r.now())[i].Since }
	want := func(what string, at time.Time) {
		t.Helper()
		if got := since(0); !got.Equal(at) {
			t.Errorf("%s: got since %s, want %s", what, got, at)
		}
	}
	added := since(0)
	r.answers(100, 0, 1, 2)
	want("healthy all along", added)
	r.failUntilOut(0, PhaseWait)
	out := r.now()
	want("ejected", out)
	r.wait(20 * time.Second)
	want("still ejected", out)
	if !r.Claim(r.host(0), r.now()) {
		t.Fatal("got no trial after the ejection")
	}
	want("probing", r.now())
	r.Eject(r.host(0), 0, r.now())
	ordered := r.now()
	want("ejected by an operator", ordered)
	r.wait(time.Second)
	r.Eject(r.host(0), time.Minute, r.now())
	want("ejected by an operator again", ordered)
	r.Restore(r.host(0), r.now())
	want("restored", r.now())
}

// What slows all origins down shows at one of them first.
func TestCommonSlownessEjectsNobody(t *testing.T) {
	for first := range 12 {
		r := newRig(t, 2)
		r.answersIn(100, 60*time.Millisecond, 0, 1)
		for range first {
			r.answersIn(1, 400*time.Millisecond, 0)
			r.answersIn(1, 60*time.Millisecond, 1)
		}
		r.answersIn(200, 400*time.Millisecond, 1, 0)
		if len(r.events) > 0 {
			t.Errorf("one was slow %d times before the other: got %+v, want nothing", first, r.events)
		}
	}
}
