// SPDX-License-Identifier: Apache-2.0

// Evidence of overload: what must be there before a limit is enforced by itself.

package concurrency

import (
	"math"
	"time"
)

const (
	// errorShare of the answers being signs of overload is evidence.
	errorShare = 0.02
	// fewestErrors keeps one timeout among thirty requests from being evidence.
	fewestErrors = 5
	// evidenceLasts is how long it takes to be sure that an overload is over.
	evidenceLasts = 10 * time.Second
	// errorSpan is the time that errors are counted over: half of it at least.
	errorSpan = 10 * time.Second
	// slowFactor is how many times the unloaded time is evidence, if it is more
	// than leastSlow.
	slowFactor = 3
	leastSlow  = 100 * time.Millisecond
	// slowestUnloaded is how many times the unloaded time answers may take without
	// anything waiting.
	slowestUnloaded = 1.6
	// timeMemory is over how many answers their time is averaged.
	timeMemory = 8
	// hintEvery is how often errors alone may lower the limit.
	hintEvery = 250 * time.Millisecond
)

// evidence remembers signs of overload. Times are since the limiter's start.
type evidence struct {
	errors, all         int // in this half of the span
	pastErrors, pastAll int // in the half before
	half                time.Duration
	hinted              time.Duration
	until               time.Duration // holds until then; 0: never held
	time                float64       // logarithm of what answers take just now
	line                float64       // and of how much has come since they began
	rate                float64       // and of how many come in a nanosecond
}

// slow takes in the time of an answer and notes if answers take so long that
// this is evidence by itself, or will when those come that now stand in line:
// inflight of them. base is the logarithm of the unloaded time. It tells whether
// answers take far longer than that, evidence or not.
func (e *evidence) slow(s sample, base, inflight float64, t time.Duration) bool {
	if base == 0 {
		return false
	}
	took, began := math.Log(float64(max(s.ttfb, 1))), math.Log(float64(s.inflight))
	if e.time == 0 {
		e.time, e.rate = base, began-took
	}
	e.time += (took - e.time) / timeMemory
	e.rate += (began - took - e.rate) / timeMemory
	e.line += (math.Log(max(inflight, 1)) - began - e.line) / timeMemory
	expected := e.time
	if e.time > base+math.Log(slowestUnloaded) {
		expected += max(e.line, 0)
	}
	if expected < base+math.Log(slowFactor) {
		return false
	}
	if expected > math.Log(float64(leastSlow)) {
		e.until = t + evidenceLasts
	}
	return true
}

// count adds an outcome. It tells whether the limit is to be lowered for it.
func (e *evidence) count(overload bool, t time.Duration) (hint bool) {
	if t-e.half >= errorSpan/2 {
		e.pastErrors, e.pastAll = e.errors, e.all
		if t-e.half >= errorSpan {
			e.pastErrors, e.pastAll = 0, 0
		}
		e.errors, e.all, e.half = 0, 0, t
	}
	e.all++
	if !overload {
		return false
	}
	e.errors++
	failed := e.errors + e.pastErrors
	if failed < fewestErrors || float64(failed) < errorShare*float64(e.all+e.pastAll) {
		return false
	}
	e.until = t + evidenceLasts
	if t-e.hinted < hintEvery {
		return false
	}
	e.hinted = t
	return true
}

// judge takes in an estimate: while there is more demand than the limit, it is
// not over.
func (e *evidence) judge(crowded bool, t time.Duration) {
	if crowded && e.holds(t) {
		e.until = t + evidenceLasts
	}
}

func (e *evidence) holds(t time.Duration) bool { return t < e.until }
