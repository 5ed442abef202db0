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
	// growth is how fast the limit rises, from one estimate to the next.
	growth = 1.5
	// growthAfterErrors is the same for ten seconds after errors lowered it.
	growthAfterErrors = 1.02

	// noticeable is from how many times the unloaded time on an answer is slow,
	// chance aside. It lies above slack.
	noticeable = 2
	// waiting is the slope from which on requests certainly wait for one another.
	waiting = 0.3
	// outlier is how many times the unloaded time an answer counts at most.
	outlier = 20
	// leastOutlier is what an answer counts at least, if it took so long: fast
	// origins are overloaded long before it is twenty times the unloaded time.
	leastOutlier = float64(3 * leastSlow)

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
// in flight if none waited. Times are in nanoseconds, or since the limiter's
// start.
type knee struct {
	limit   float64
	base    float64 // the unloaded time; 0: not known
	spread  float64 // of unloaded times, in relation to their mean
	window  window
	first   window
	slope   slope
	peaks   peaks
	probe   probe
	cut     cut
	hinted  time.Duration // when errors last lowered the limit
	calm    time.Duration // when the limit last kept nobody away
	updates int
	crowded bool // the last estimate found more demand than the limit
}

// cut remembers what the limit was lowered from, until a probe has shown whether
// that was right.
type cut struct {
	from float64 // the limit before; 0: nothing to undo
	time float64 // what it was lowered for
}

// add takes in a sample, and how many are in flight now without it. It tells
// whether it is time for an update.
func (k *knee) add(s sample, inflight float64, t time.Duration) bool {
	if p := &k.probe; p.on || p.watching {
		if p.add(s, inflight, t) {
			k.endProbe(t)
		}
		if p.on || s.epoch != p.epoch {
			return false // it says nothing of the limit that holds now
		}
	}
	w := &k.window
	w.add(s)
	if k.base == 0 {
		k.begin(s)
	}
	age := t - w.start
	return age >= shortestWindow && w.n >= fewestSamples || age >= longestWindow ||
		w.n >= max(severeSamples, float64(enough(k.spread))) && k.slow(w)
}

// begin finds the first unloaded time, from the first requests that there were:
// when they began, little else was in flight. Of all that began by now, only the
// fast ones would have ended.
func (k *knee) begin(s sample) {
	if s.inflight <= fewestSamples {
		k.first.add(s)
	}
	if k.first.n >= float64(enough(k.first.spread())) {
		k.base, k.spread = k.first.time(), k.first.spread()
	} else if k.window.n >= 20*fewestSamples {
		k.base, k.spread = k.window.time(), k.window.spread()
	}
}

// enough is how many samples make a mean that can be relied on.
func enough(spread float64) int {
	return int(min(max(fewestSamples, 32*spread*spread), 20*fewestSamples))
}

// memory is over how many answers moving averages go.
func (k *knee) memory() float64 { return 0.8 * float64(enough(k.spread)) }

// slow tells that answers take clearly longer than without load, and not by
// chance. Chance is given less room if they are known to wait for one another.
func (k *knee) slow(w *window) bool {
	spread := max(w.spread(), k.spread)
	chance := 3 * spread / math.Sqrt(w.n) * min(max(0, 1-k.slope.value()), 1)
	return k.base > 0 && w.time() > k.base*(noticeable+max(chance, 2/math.Sqrt(w.n)))
}

// update makes a new estimate. inflight is what is in flight now; refused tells
// that the limit kept requests away.
func (k *knee) update(inflight float64, refused bool, t time.Duration) {
	w := k.window
	k.window = window{start: t}
	if w.n < fewestSamples || k.base == 0 {
		return
	}
	k.slope.add(&w)
	k.spread += (w.spread() - k.spread) * k.weight()
	k.updates++
	k.crowded = refused || w.most >= k.limit
	if !refused {
		k.calm = t
	}
	switch {
	case k.slow(&w):
		k.crowded = true
		k.lower(w.inflight(), w.time(), w.n, t)
	case k.crowded:
		k.follow(&w, refused)
	default:
		k.relax(&w, t)
	}
	if k.wantsProbe(inflight, t) {
		k.beginProbe(t)
	}
}

// lower sets the limit at once to what the origin can do, if the unloaded time
// is still the same, for answers that take so long with so many in flight.
// It goes no further than n samples of such a spread allow.
func (k *knee) lower(inflight, time, n float64, t time.Duration) {
	limit := clamp(slack * inflight * k.base / time * (1 + 2*k.spread/math.Sqrt(n)))
	if limit >= k.limit || k.probe.on {
		return
	}
	if limit < 0.8*k.limit {
		if k.cut.from == 0 {
			k.cut = cut{from: min(k.limit, k.peaks.most(t)), time: time}
		}
		k.probe.next = t
	}
	k.limit = limit
}

// weight is how much a new measurement counts: the first ones more.
func (k *knee) weight() float64 { return max(1.0/8, 1/float64(2+k.updates)) }

// follow moves the limit while there is more demand than it allows.
func (k *knee) follow(w *window, refused bool) {
	switch sure := 1 + 3*k.spread/math.Sqrt(w.n); {
	case w.time()*sure < k.base:
		k.fall(w)
	case refused: // it could not rise again
	case w.time() < k.base:
		k.fall(w)
	default:
		k.rise(w)
	}
	target := slack * w.inflight() / max(w.time()/k.base, 1)
	if target < k.limit {
		target = (k.limit + target) / 2
	}
	k.limit = clamp(min(target, growth*k.limit))
}

// relax is for when there is room: the limit keeps its distance, and the unloaded
// time follows the measured one.
func (k *knee) relax(w *window, t time.Duration) {
	if w.time() < k.base {
		k.fall(w)
	} else if !k.rise(w) {
		return
	}
	room, factor := headroom*k.peaks.most(t), growth
	if k.hinted > 0 && t-k.hinted < evidenceLasts {
		factor = growthAfterErrors
	}
	if room > k.limit {
		k.limit = clamp(min(room, factor*k.limit))
	} else if k.limit > initialLimit {
		k.limit = clamp(max(room, initialLimit, 0.98*k.limit))
	}
}

// fall lets the unloaded time follow a lower one, slowly if that may be chance.
func (k *knee) fall(w *window) {
	share := 1 / (1 + 10*k.spread*k.spread)
	k.base += (w.time() - k.base) * max(share, 0.125)
}

// rise lets the unloaded time follow a higher one, the less so the more that one
// depends on what is in flight. It tells whether it does so at all.
func (k *knee) rise(w *window) bool {
	share := max(0, 1-k.slope.value()/waiting)
	k.base += (w.time() - k.base) * share * k.weight()
	return share > 0
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
