// SPDX-License-Identifier: Apache-2.0

// What is remembered of answers: sums over a window, how their time depends on
// what is in flight, and the peaks of the last half minute.

package concurrency

import (
	"math"
	"time"
)

// sample is one answer.
type sample struct {
	time     float64 // to first byte, in nanoseconds
	epoch    uint32  // of probes, when it began
	inflight float64 // when it began, with itself
}

// window sums samples up. Means are arithmetic: only for these does Little's law
// hold when cheap and expensive requests are mixed.
type window struct {
	start                  time.Duration
	n                      float64
	times, squares, counts float64
	most                   float64 // in flight
	// For the slope: logarithms, relative to the first sample's.
	x0, y0     float64
	x, y       float64
	xx, xy, yy float64
}

func (w *window) add(s sample) {
	x, y := math.Log(s.inflight), math.Log(s.time)
	if w.n == 0 {
		w.x0, w.y0 = x, y
	}
	x, y = x-w.x0, y-w.y0
	w.x, w.y = w.x+x, w.y+y
	w.xx, w.xy, w.yy = w.xx+x*x, w.xy+x*y, w.yy+y*y
	w.n++
	w.times, w.squares = w.times+s.time, w.squares+s.time*s.time
	w.counts += s.inflight
	w.most = max(w.most, s.inflight)
}

// time is the mean time to first byte, or 0.
func (w *window) time() float64 { return w.times / max(w.n, 1) }

// inflight is how many requests were in flight on average, or 0.
func (w *window) inflight() float64 { return w.counts / max(w.n, 1) }

// spread is the standard deviation of the times, in relation to their mean.
func (w *window) spread() float64 {
	mean := w.time()
	if mean == 0 {
		return 0
	}
	return math.Sqrt(max(0, w.squares/w.n-mean*mean)) / mean
}

// slope tells how times depend on what is in flight, both as logarithms: 0 if
// not at all, 1 if every further request makes all others wait.
type slope struct{ n, xx, xy, yy float64 }

// add takes in a window. Only what happens within it counts, so that a drift is
// not taken for a dependence.
func (s *slope) add(w *window) {
	s.n = 0.8*s.n + w.n
	s.xx = 0.8*s.xx + w.xx - w.x*w.x/w.n
	s.xy = 0.8*s.xy + w.xy - w.x*w.y/w.n
	s.yy = 0.8*s.yy + w.yy - w.y*w.y/w.n
}

// value is what the slope is at least: two standard errors below the likeliest.
func (s *slope) value() float64 {
	likely := s.xy / (s.xx + 0.5)
	rest := max(0, s.yy-likely*s.xy) / max(s.n, 1)
	return likely - 2*math.Sqrt(rest/(s.xx+0.5))
}

// peaks is the most that was in flight in the last half minute, in steps of five
// seconds.
type peaks struct {
	steps [6]float64
	step  int64
}

const peakStep = 5 * time.Second

func (p *peaks) add(inflight float64, t time.Duration) {
	p.advance(t)
	i := p.step % int64(len(p.steps))
	p.steps[i] = max(p.steps[i], inflight)
}

func (p *peaks) most(t time.Duration) float64 {
	p.advance(t)
	most := p.steps[0]
	for _, s := range p.steps[1:] {
		most = max(most, s)
	}
	return most
}

func (p *peaks) advance(t time.Duration) {
	now := int64(t / peakStep)
	if p.step < now-int64(len(p.steps)) {
		p.step = now - int64(len(p.steps))
	}
	for p.step < now {
		p.step++
		p.steps[p.step%int64(len(p.steps))] = 0
	}
}
