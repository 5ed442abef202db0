// SPDX-License-Identifier: Apache-2.0

// The estimate of an origin's limit: the knee, up to which more requests in
// flight mean more answers, and beyond which they only mean longer waits.

package concurrency

import (
	"math"
	"time"
)

const (
	leastLimit   = 4
	initialLimit = 200
	mostLimit    = 10000

	// slack is how far above the knee the limit lies. It keeps the origin busy
	// while an answer travels, at the price of waiting for less than a service time.
	slack = 1.8
	// headroom is the room above the largest number in flight of late, while
	// nothing is wrong.
	headroom = 3
	// noticeable is from how many times the unloaded time on an answer is slow,
	// with as many samples as one likes. It lies above slack.
	noticeable = 2
	// waiting is the slope from which on requests wait for one another.
	waiting = 0.5

	shortestWindow = 250 * time.Millisecond
	longestWindow  = 5 * time.Second
	fewestSamples  = 10
	// severeSamples being slow, an estimate does not wait for its window to end.
	severeSamples = 16
)

// knee estimates a limit. It follows
//
//	limit = slack x in flight x unloaded time / time
//
// which by Little's law is slack times the requests that the origin would have
// in flight if none waited. Times are since the limiter's start.
type knee struct {
	limit   float64
	base    float64 // logarithm of the unloaded time; 0: not known
	window  window
	first   window
	slope   slope
	peaks   peaks
	hinted  time.Duration
	probe   probe
	cut     cut
	calm    time.Duration // when the limit last kept nobody away
	crowded bool          // the last estimate found more demand than the limit
}

// cut remembers what the limit was lowered from, until a probe has shown whether
// that was right.
type cut struct {
	from float64 // the limit before; 0: nothing to undo
	time float64 // logarithm of the time that it was lowered for
}

// add takes in a sample. It tells whether it is time for an update.
func (k *knee) add(s sample, t time.Duration) bool {
	k.peaks.add(float64(s.inflight), t)
	if k.probe.on {
		return k.probe.add(s, t)
	}
	w := &k.window
	w.add(s, t)
	if k.base == 0 {
		k.begin(s, t)
	}
	age := t - w.start
	return age >= shortestWindow && w.n >= fewestSamples || age >= longestWindow ||
		w.n >= severeSamples && k.slow(w)
}

// begin finds the first unloaded time, from the first requests that there were:
// when they began, little else was in flight. Of all that began by now, only the
// fast ones would have ended.
func (k *knee) begin(s sample, t time.Duration) {
	if s.inflight <= fewestSamples {
		k.first.add(s, t)
	}
	if k.first.n >= fewestSamples {
		k.base = k.first.mean()
	} else if k.window.n >= 10*fewestSamples {
		k.base = k.window.mean()
	}
}

// slow tells that answers take clearly longer than without load.
func (k *knee) slow(w *window) bool {
	return k.base > 0 && math.Exp(w.mean()-k.base) > noticeable+3/math.Sqrt(w.n)
}

// update makes a new estimate. inflight is what is in flight now. refused: the limit kept requests away.
func (k *knee) update(inflight float64, refused bool, t time.Duration) {
	if k.probe.on {
		k.endProbe(t)
		return
	}
	w := k.window
	k.window = window{start: t}
	if w.n < fewestSamples {
		return
	}
	k.slope.add(&w)
	excess := math.Exp(w.mean() - k.base)
	k.crowded = refused || w.most >= k.limit
	if !refused {
		k.calm = t
	}
	switch {
	case k.slow(&w):
		k.lower(&w, excess, t)
	case k.crowded:
		k.follow(&w, excess, refused)
	default:
		k.relax(&w, t)
	}
	if math.Abs(math.Log(k.limit/k.probe.at)) > moved {
		k.probe.next = min(k.probe.next, k.probe.ended+promptProbe)
	}
	if t-k.calm > lasting && t >= k.probe.next && inflight <= 1.25*k.limit+1 {
		k.beginProbe(t)
	}
}

// lower sets the limit at once to what the origin can do, if the unloaded time
// is still the same. A probe finds out.
func (k *knee) lower(w *window, excess float64, t time.Duration) {
	k.crowded = true
	k.lowerTo(slack*w.inflight()/excess, w.mean(), t)
}

// lowerTo lowers the limit for answers that take so long, as a logarithm.
func (k *knee) lowerTo(limit, time float64, t time.Duration) {
	limit = clamp(limit)
	if limit >= k.limit || k.probe.on {
		return
	}
	if limit < 0.8*k.limit {
		if k.cut.from == 0 {
			k.cut = cut{from: k.limit, time: time}
		}
		k.probe.next = t
	}
	k.limit = limit
}

// follow moves the limit while there is more demand than it allows.
func (k *knee) follow(w *window, excess float64, refused bool) {
	if w.mean() < k.base {
		k.base = w.mean()
	} else if !refused && k.slope.value() < waiting {
		k.base += (w.mean() - k.base) / 8
	}
	target := slack * w.inflight() / max(excess, 1)
	if target < k.limit {
		target = (k.limit + target) / 2
	}
	k.limit = clamp(min(target, 1.5*k.limit))
}

// relax is for when there is room: the limit keeps its distance, and the
// unloaded time follows the measured one, unless that grows with what is in
// flight, for then requests wait.
func (k *knee) relax(w *window, t time.Duration) {
	room := headroom * k.peaks.most(t)
	growth := 1.5
	if t-k.hinted < evidenceLasts && k.hinted > 0 {
		growth = 1.02
	}
	switch {
	case w.mean() < k.base:
		k.base += (w.mean() - k.base) / 4
	case k.slope.value() < waiting:
		k.base += (w.mean() - k.base) / 8
	default:
		return
	}
	if room > k.limit {
		k.limit = clamp(min(room, growth*k.limit))
	} else if k.limit > initialLimit {
		k.limit = clamp(max(room, initialLimit, 0.98*k.limit))
	}
}

// hint lowers the limit for timeouts and refusals of the origin's own.
func (k *knee) hint(t time.Duration) {
	k.limit = clamp(0.9 * min(k.limit, max(k.peaks.most(t), leastLimit)))
	k.hinted = t
}

// inForce is the limit that holds now.
func (k *knee) inForce() float64 {
	if k.probe.on {
		return k.probe.limit
	}
	return k.limit
}

func clamp(limit float64) float64 { return min(max(limit, leastLimit), mostLimit) }
