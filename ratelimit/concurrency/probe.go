// SPDX-License-Identifier: Apache-2.0

// Probes: the limit is lowered for a moment, to see how long answers take when
// fewer requests wait.

package concurrency

import (
	"math"
	"time"
)

const (
	// probeShare of the limit is left during a probe. Times slack, it is below 1:
	// at the right limit, nothing waits during a probe.
	probeShare = 0.45
	// probeEvery is the time between probes while the limit keeps requests away,
	// rarestProbe the same when they find nothing new.
	probeEvery  = 3 * time.Second
	rarestProbe = 15 * time.Second
	// moved is how far the limit may go, as a logarithm, before a probe is due,
	// promptProbe after the last.
	moved       = 0.15
	promptProbe = time.Second
	// lasting is how long the limit must have kept requests away: a burst that
	// the queue takes in would not all fit in if there were half the places.
	lasting = time.Second
	// lastingAfterCut is the same once the limit was lowered for slow answers: it
	// may have been wrong.
	lastingAfterCut = 250 * time.Millisecond
	longestTry      = time.Second
	// fewestProbed is how many samples a probe tells something with: at the least
	// limit there are few in its time, and how much they vary is known.
	fewestProbed = 4
)

// probe is one that is under way, or the time of the next.
type probe struct {
	on    bool // the limit is lowered
	limit float64
	// epoch goes up as the limit is lowered and as it is raised again, so that
	// what began meanwhile can be told from what began before or after.
	epoch    uint32
	wanted   float64 // samples
	window   window
	until    time.Duration
	watching bool    // the limit holds again, but not all have ended
	left     float64 // how many had not ended then
	next     time.Duration
	interval time.Duration
	ended    time.Duration
	at       float64 // the limit then
}

func (k *knee) wantsProbe(inflight float64, t time.Duration) bool {
	p := &k.probe
	if math.Abs(math.Log(k.limit/p.at)) > moved {
		p.next = min(p.next, p.ended+promptProbe)
	}
	wait := lasting
	if k.cut.from > 0 {
		wait = lastingAfterCut
	}
	return !p.watching && t-k.calm > wait && t >= p.next && inflight <= 1.25*k.limit+1
}

func (k *knee) beginProbe(t time.Duration) {
	p := &k.probe
	limit := max(2, math.Floor(probeShare*k.limit))
	wanted := max(probed(k.spread), min(limit, 5*fewestSamples))
	*p = probe{
		on: true, limit: limit, wanted: wanted, epoch: p.epoch + 1,
		until:    t + max(longestTry, time.Duration(4*k.base)),
		interval: p.interval, at: p.at,
	}
}

// probed is how many samples of such a spread a probe must have.
func probed(spread float64) float64 {
	return min(max(fewestProbed, 32*spread*spread), 20*fewestSamples)
}

// add takes in a sample, and how many are in flight now. It tells whether the
// probe is over. When enough have ended, the limit is raised again, but those that
// are still in flight are waited for: the first to end are the fast ones.
func (p *probe) add(s sample, inflight float64, t time.Duration) bool {
	if p.watching && s.epoch == p.epoch {
		return t >= p.until
	}
	during := p.epoch
	if p.watching {
		during--
	}
	if s.epoch == during && s.inflight <= p.limit {
		p.window.add(s)
	}
	if p.watching {
		p.left--
	} else if p.window.n >= p.wanted || t >= p.until {
		p.close(inflight, t)
	}
	return p.watching && (p.left <= 0 || t >= p.until)
}

// endLate ends a probe whose time is over although no answer has come.
func (k *knee) endLate(inflight float64, t time.Duration) {
	p := &k.probe
	if p.on && t >= p.until {
		p.close(inflight, t)
	}
	if p.watching && t >= p.until {
		k.endProbe(t)
	}
}

// close raises the limit again.
func (p *probe) close(inflight float64, t time.Duration) {
	p.on, p.watching, p.left = false, true, inflight
	p.epoch++
	p.until = max(p.until, t+longestTry)
}

// endProbe takes over what the probe has measured. A limit that was lowered for
// slow answers which are as slow with half as many in flight is raised again.
func (k *knee) endProbe(t time.Duration) {
	p := &k.probe
	w := p.window
	p.on, p.watching, p.ended, p.at = false, false, t, k.limit
	p.interval = min(max(2*p.interval, probeEvery), rarestProbe)
	if w.n < min(fewestSamples, probed(max(k.spread, w.spread()))) {
		p.next = t + probeEvery // nothing learnt: nobody enforces the limit
		return
	}
	k.learnBase(&w)
	if k.cut.from > 0 && w.time() > 0.8*k.cut.time {
		k.limit = max(k.limit, k.cut.from)
	}
	k.cut, p.at = cut{}, k.limit
	p.next = t + p.interval
}

// learnBase takes a probe's time for the unloaded one, and moves the limit with it.
func (k *knee) learnBase(w *window) {
	change, chance := math.Log(w.time()/k.base), 2*max(w.spread(), k.spread)/math.Sqrt(w.n)
	if math.Abs(change) > max(0.3, chance) {
		k.probe.interval = probeEvery
	} else if math.Abs(change) < max(0.1, chance) {
		change /= 2
	}
	k.base *= math.Exp(change)
	k.limit = clamp(k.limit * math.Exp(min(change, 0.4)))
}
