// SPDX-License-Identifier: Apache-2.0

// Evidence of overload: what must be there before a limit is enforced by itself.

package concurrency

import "time"

const (
	// slowFactor is how many times the unloaded time is evidence, if it is more
	// than leastSlow.
	slowFactor = 3
	leastSlow  = 100 * time.Millisecond
	// slowestUnloaded is how many times the unloaded time answers may take without
	// anything waiting.
	slowestUnloaded = 1.6
	// rareOutlier is how many times the unloaded time an answer counts at most as
	// evidence, but leastOutlier in any case: one in ten that takes very long, as
	// those of a long poll do, is none.
	rareOutlier = 8
	// errorShare of the answers being signs of overload is evidence.
	errorShare = 0.02
	// fewestErrors keeps one timeout among thirty requests from being evidence.
	fewestErrors = 5
	// errorSpan is the time that errors are counted over: half of it at least.
	errorSpan = 10 * time.Second
	// hintEvery is how often errors alone may lower the limit.
	hintEvery = 250 * time.Millisecond
	// longestWait is how long a client waits at most that counts before anything is
	// known of the origin.
	longestWait = time.Second
	// evidenceLasts is how long it takes to be sure that an overload is over.
	evidenceLasts = 10 * time.Second
)

// Why is what kind of evidence there is.
type Why string

// Kinds of evidence.
const (
	Errors Why = "errors" // timeouts, 503, ENHANCE_YOUR_CALM
	Slow   Why = "slow"   // answers that take several times as long as without load
	Told   Why = "told"   // the origin says so itself
)

// evidence remembers signs of overload. Times are since the limiter's start.
type evidence struct {
	errors, all         int // in this half of the span
	pastErrors, pastAll int // in the half before
	half                time.Duration
	ok, pastOK          int // answers in this second, and in the one before
	second              time.Duration
	hinted              time.Duration
	until               time.Duration // holds until then; 0: never held
	why                 Why           // of the latest
	recent              recent
}

// recent is moving averages over the last few answers.
type recent struct {
	time  float64 // what they took
	began float64 // how many were in flight when they began
	now   float64 // and when they ended
}

func (r *recent) add(s sample, inflight, memory float64) {
	if r.began == 0 {
		*r = recent{s.time, s.inflight, inflight}
		return
	}
	r.time += (s.time - r.time) / memory
	r.began += (s.inflight - r.began) / memory
	r.now += (inflight - r.now) / memory
}

// cut bounds what one answer can say.
func (s sample) cut(base float64) sample {
	s.time = min(s.time, max(rareOutlier*base, leastOutlier))
	return s
}

// slow takes in an answer and notes if answers take so long that this is evidence
// by itself, or will when those come that now stand in line. It tells whether
// answers take far longer than without load, evidence or not.
func (e *evidence) slow(s sample, inflight float64, k *knee) bool {
	if k.base == 0 {
		return false
	}
	r := &e.recent
	r.add(s, inflight, k.memory())
	expected := r.time
	if r.time > slowestUnloaded*k.base {
		expected *= max(1, r.now/r.began)
	}
	return expected > slowFactor*k.base
}

// note holds what slow has told against the least time that matters.
func (e *evidence) note(t time.Duration) {
	if r := &e.recent; r.time*max(1, r.now/r.began) > float64(leastSlow) {
		e.until, e.why = t+evidenceLasts, Slow
	}
}

// count adds an outcome. It tells whether the limit is to be lowered for it.
func (e *evidence) count(o Outcome, t time.Duration) (hint bool) {
	e.advance(t)
	e.all++
	if o == OK {
		e.ok++
	}
	if o != Overload {
		return false
	}
	e.errors++
	failed := e.errors + e.pastErrors
	if failed < fewestErrors || float64(failed) < errorShare*float64(e.all+e.pastAll) {
		return false
	}
	e.until, e.why = t+evidenceLasts, Errors
	if t-e.hinted < hintEvery {
		return false
	}
	e.hinted = t
	return true
}

// answers tells that enough answers come to know the origin by them.
func (e *evidence) answers() bool { return max(e.ok, e.pastOK) >= fewestSamples }

func (e *evidence) advance(t time.Duration) {
	if age := t - e.second; age >= time.Second {
		e.pastOK = e.ok
		if age >= 2*time.Second {
			e.pastOK = 0
		}
		e.ok, e.second = 0, t
	}
	if t-e.half < errorSpan/2 {
		return
	}
	e.pastErrors, e.pastAll = e.errors, e.all
	if t-e.half >= errorSpan {
		e.pastErrors, e.pastAll = 0, 0
	}
	e.errors, e.all, e.half = 0, 0, t
}

// judge takes in an estimate: while there is more demand than the limit, it is
// not over.
func (e *evidence) judge(crowded bool, t time.Duration) {
	if crowded && e.holds(t) {
		e.until = t + evidenceLasts
	}
}

func (e *evidence) holds(t time.Duration) bool { return t < e.until }
