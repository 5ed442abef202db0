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
	ttfb, began time.Duration
	inflight    int64 // when it began, with itself
}

// window sums samples up. Times go in as logarithms: a few slow answers among
// many fast ones shall not move the mean much, nor the mix of cheap and
// expensive requests.
type window struct {
	start time.Duration
	n     float64
	times float64 // sum of logarithms
	most  float64 // in flight
	// For the slope, relative to the first sample.
	x0, y0       float64
	x, y, xx, xy float64
}

func (w *window) add(s sample, t time.Duration) {
	time, inflight := math.Log(float64(max(s.ttfb, 1))), float64(s.inflight)
	x := math.Log(inflight)
	if w.n == 0 {
		w.x0, w.y0 = x, time
	}
	x, y := x-w.x0, time-w.y0
	w.x, w.y, w.xx, w.xy = w.x+x, w.y+y, w.xx+x*x, w.xy+x*y
	w.n++
	w.times += time
	w.most = max(w.most, inflight)
}

// mean is the logarithm of the geometric mean of the times.
func (w *window) mean() float64 { return w.times / w.n }

// latest is the mean, or another value if there is none.
func (w *window) latest(other float64) float64 {
	if w.n == 0 {
		return other
	}
	return w.mean()
}

// inflight is the geometric mean of what was in flight, so that it goes with the
// times when both change within the window.
func (w *window) inflight() float64 { return math.Exp(w.x0 + w.x/w.n) }

// slope tells how times depend on what is in flight, both as logarithms: 0 if
// not at all, 1 if every further request makes all others wait.
type slope struct{ xx, xy float64 }

// add takes in a window. Only what happens within it counts, so that a drift is
// not taken for a dependence.
func (s *slope) add(w *window) {
	s.xx = 0.8*s.xx + w.xx - w.x*w.x/w.n
	s.xy = 0.8*s.xy + w.xy - w.x*w.y/w.n
}

// value is near 0 until enough is known.
func (s *slope) value() float64 { return s.xy / (s.xx + 0.5) }

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
	for p.step < now {
		if now-p.step > int64(len(p.steps)) {
			p.step = now - int64(len(p.steps))
		}
		p.step++
		p.steps[p.step%int64(len(p.steps))] = 0
	}
}
