// SPDX-License-Identifier: Apache-2.0

// The detector "CG": a sequential test of one origin against the others of its
// pool. It needs seven requests for an origin that is down, some 170 for one
// that fails 5 % of them, and leaves alone what fails no more than its peers.

package health

import (
	"math"
	"time"
)

// The constants of the detector. docs/ejection.md says where they come from and
// what was measured with them.
const (
	// threshold is how much evidence ejects: 12 nats. A healthy origin would
	// reach it once in e^12 excursions, and must then still pass the gate.
	threshold = 12.0
	// ceiling keeps an origin that may not be ejected from gathering evidence
	// without end, of which it would have to rid itself after its recovery.
	ceiling = 1.5 * threshold

	minRate   = 0.005 // the failure rate that is taken for normal in any pool
	maxRate   = 0.9
	priorSize = 20 // outcomes at minRate which a pool without traffic is taken to have had

	// An origin is bad if it fails five times as often as its peers, or 4
	// points more often; the test is sharpest at exactly that.
	badFactor, badMargin, maxBadRate = 5.0, 0.04, 0.95

	gateZ    = 1.64     // one-sided confidence of 95 %
	gateOdds = math.Ln2 // that the odds of failing are at least double the peers'
	gateAdd  = 0.5      // to each cell, so that none is empty (Haldane and Anscombe)
	forget   = time.Minute
	// refresh is how long the peers' rate is used again. It spares the logarithms.
	refresh = 100 * time.Millisecond
	// deadTime follows each failure: what one event breaks, breaks together.
	deadTime = 5 * time.Millisecond
)

// finding is what a detector says about an origin.
type finding uint8

const (
	nothing finding = iota
	outlier         // worse than its peers, beyond doubt
	common          // as bad as an outlier, but so are its peers
)

// sequential is the state of the test for one origin and one kind of failure.
// The caller guards it. Times are counted from the pool's beginning.
type sequential struct {
	score    float64 // the evidence that the origin is bad; 0: none
	own      tally   // all outcomes of the origin
	recent   window
	changed  struct{ own, pool tally } // when the score last left its floor
	floor    float64
	floorEnd time.Duration // until then the score stays at floor or above

	peers      float64 // the peers' failure rate
	rise, fall float64 // what a failure and a success add to the score
	rated      time.Duration
	last       time.Duration // the last outcome
	dead       time.Duration // end of the dead time
}

// observe counts an outcome, which is a success if failed is 0, and says what
// follows from it. Right after a failure nothing is counted, neither failures
// nor successes: to skip the failures only would make an origin look better the
// more requests it gets.
func (d *sequential) observe(failed int64, pool *counters, t time.Duration) finding {
	if t < d.dead && t >= d.dead-deadTime {
		return nothing
	}
	d.count(failed, pool, t)
	if d.rated == 0 || t-d.rated >= refresh || t < d.rated {
		d.rate(pool, t)
	}
	d.decay(t)
	if failed == 0 {
		d.succeed(pool, t)
		return nothing
	}
	d.dead = t + deadTime
	d.score += d.rise * float64(failed) / unit
	return d.judge(pool)
}

// count adds an outcome to the sums without a judgement.
func (d *sequential) count(failed int64, pool *counters, t time.Duration) {
	pool.add(failed)
	d.recent.advance(t, d.own)
	d.own.all += unit
	d.own.failed += failed
}

// rate compares with the peers' last ten seconds, the origin itself left out: it
// would otherwise hide behind its own failures.
func (d *sequential) rate(pool *counters, t time.Duration) {
	failed, ok := pool.recent().minus(d.lately()).counts()
	good := min(max((minRate*priorSize+failed)/(priorSize+failed+ok), minRate), maxRate)
	bad := min(maxBadRate, max(badFactor*good, good+badMargin))
	d.peers, d.rated = good, max(t, 1)
	d.rise, d.fall = math.Log(bad/good), math.Log((1-bad)/(1-good))
}

// lately is the origin's own window.
func (d *sequential) lately() tally { return d.own.minus(d.recent.start()) }

// decay lets evidence fade, so that failures days apart never add up.
func (d *sequential) decay(t time.Duration) {
	if d.score > 0 && t > d.last {
		d.score *= fade(t-d.last, forget)
	}
	d.last = max(d.last, t)
}

func (d *sequential) succeed(pool *counters, t time.Duration) {
	floor := 0.0
	if t < d.floorEnd {
		floor = d.floor
	}
	if d.score += d.fall; d.score <= floor {
		d.score = floor
		d.markChange(pool)
	}
}

// markChange notes the totals: if the origin turns bad, it does so after this.
func (d *sequential) markChange(pool *counters) { d.changed.own, d.changed.pool = d.own, pool.total() }

func (d *sequential) judge(pool *counters) finding {
	if d.score < threshold {
		return nothing
	}
	d.score = min(d.score, ceiling)
	if d.worseThanPeers(pool) {
		return outlier
	}
	return common
}

// worseThanPeers is the gate: since the change the odds of failing must be more
// than double the peers' odds, with 95 % confidence. It is what keeps a fault of
// the whole pool, which hits some origin first, from ejecting that origin.
func (d *sequential) worseThanPeers(pool *counters) bool {
	return worse(d.sinceChange(pool))
}

// worse is the gate itself.
func worse(own, others tally) bool {
	a, b := own.counts()
	c, e := others.counts()
	a, b, c, e = a+gateAdd, b+gateAdd, c+gateAdd, e+gateAdd
	return math.Log(a*e/(b*c))-gateZ*math.Sqrt(1/a+1/b+1/c+1/e) > gateOdds
}

// sinceChange counts what the origin and its peers did since the change.
func (d *sequential) sinceChange(pool *counters) (own, others tally) {
	own = d.own.minus(d.changed.own)
	return own, pool.total().minus(d.changed.pool).minus(own)
}

// restart begins anew for an origin that returns to traffic, half convinced for
// a while that it is bad: it was, a moment ago.
func (d *sequential) restart(pool *counters, t time.Duration) {
	d.score, d.floor, d.floorEnd = threshold/2, threshold/2, t+watchAfterReturn
	d.last, d.dead = t, 0
	d.markChange(pool)
}

// trust drops the evidence that restart kept.
func (d *sequential) trust() { d.score, d.floorEnd = 0, 0 }

// fade approximates exp(-d/tau) to 1 % for what it is used for, d below tau/2,
// and never rises again beyond. It costs two nanoseconds instead of ten.
func fade(d, tau time.Duration) float64 {
	x := float64(d) / float64(tau)
	return 1 / (1 + x + x*x/2)
}
