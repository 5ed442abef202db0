// SPDX-License-Identifier: Apache-2.0

// Probes: the limit is lowered for a moment, to see how long answers take when
// fewer requests wait.

package concurrency

import (
	"math"
	"time"
)

const (
	// probeEvery is the time between probes while the limit keeps requests away.
	probeEvery = 3 * time.Second
	// rarestProbe is the time between them when they find nothing new.
	rarestProbe = 15 * time.Second
	// lasting is how long the limit must have kept requests away: a burst that
	// the queue takes in would not all fit in if there were half the places.
	lasting    = time.Second
	probeShare = 0.45
	mostProbed = 50 // samples
	longestTry = time.Second
	// moved is how far the limit may go, as a logarithm, before a probe is due,
	// promptProbe after the last.
	moved       = 0.15
	promptProbe = time.Second
)

// probe is one that is under way, or the time of the next.
type probe struct {
	on       bool
	limit    float64
	wanted   float64 // samples
	window   window
	until    time.Duration
	next     time.Duration
	interval time.Duration
	ended    time.Duration
	at       float64 // the limit then
}

func (k *knee) beginProbe(t time.Duration) {
	p := &k.probe
	limit := max(2, math.Floor(probeShare*k.limit))
	patience := 4 * time.Duration(math.Exp(k.window.latest(k.base)))
	*p = probe{
		on: true, limit: limit, interval: p.interval, at: p.at,
		wanted: min(max(fewestSamples, limit), mostProbed),
		window: window{start: t}, until: t + max(longestTry, patience),
	}
}

// add takes in a sample. It tells whether the probe is over.
func (p *probe) add(s sample, t time.Duration) bool {
	if s.began >= p.window.start && float64(s.inflight) <= p.limit {
		p.window.add(s, t)
	}
	return p.window.n >= p.wanted || t >= p.until
}

// endProbe takes over what the probe has measured. A limit that was lowered for
// slow answers which are as slow with half as many in flight is raised again.
func (k *knee) endProbe(t time.Duration) {
	w := k.probe.window
	p := &k.probe
	p.on, p.ended, p.at = false, t, k.limit
	p.interval = min(max(2*p.interval, probeEvery), rarestProbe)
	k.window = window{start: t}
	if w.n < fewestSamples {
		p.next = t + probeEvery // nothing learnt: nobody enforces the limit
		return
	}
	found := w.mean()
	change := found - k.base
	if math.Abs(change) > 0.3 {
		p.interval = probeEvery
	} else if math.Abs(change) < 0.1 {
		change /= 2 // chance, mostly
	}
	k.base += change
	k.limit = clamp(k.limit * math.Exp(min(change, 0.4)))
	if k.cut.from > 0 && found > k.cut.time+math.Log(0.8) {
		k.limit = max(k.limit, k.cut.from)
	}
	k.cut, p.at = cut{}, k.limit
	p.next = t + p.interval
}
