// SPDX-License-Identifier: Apache-2.0

// Package concurrency finds out how many requests an origin can work on at the
// same time, and lets no more than that through: each origin has a Limiter, all
// origins of a site share a Gate with a short queue.
//
// It knows nothing of HTTP. Time is an argument, except while a request waits.
package concurrency

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how an attempt ended, as far as the limit is concerned.
type Outcome uint8

// Outcomes of an attempt.
const (
	// OK is an answer whose time to first byte says how busy the origin is.
	OK Outcome = iota
	// Overload is a sign that the origin has too much to do: a timeout, 503 or
	// 429, HTTP/2's ENHANCE_YOUR_CALM. Its time is not looked at.
	Overload
	// Ignored says nothing: streams, upgrades, what the client broke off, faults
	// that have nothing to do with load.
	Ignored
	// Abandoned is a request whose client left before there was an answer. The
	// answer would have taken longer than that, which says something if it was
	// long: in an overload it may be all there is to see.
	Abandoned
)

// Limiter finds the limit of one origin and counts what is in flight. It may be
// shared by the Gates of several sites. Methods may be called from several
// goroutines.
type Limiter struct {
	start    time.Time // what estimates are relative to
	inflight atomic.Int64
	ages     ages
	limit    atomic.Int64 // the estimate
	inForce  atomic.Int64 // the same, but for probes
	ceiling  atomic.Int64 // 0: none
	pressure atomic.Uint32
	engaged  atomic.Bool   // there is evidence of overload
	refused  atomic.Bool   // the limit kept a request away since the last estimate
	epoch    atomic.Uint32 // counts the beginnings and ends of probes
	gates    atomic.Pointer[[]*Gate]

	mu       sync.Mutex // guards the rest, and the writing of gates
	knee     knee
	evidence evidence
}

// NewLimiter returns a limiter that knows nothing of its origin yet.
func NewLimiter(now time.Time) *Limiter {
	l := &Limiter{start: now}
	l.gates.Store(&[]*Gate{})
	l.knee.limit, l.knee.probe.at = initialLimit, initialLimit
	l.limit.Store(initialLimit)
	l.inForce.Store(initialLimit)
	return l
}

// Permit is a place at an origin. Done must be called exactly once; it does
// nothing on the zero Permit.
type Permit struct {
	limiter  *Limiter
	epoch    uint32
	born     born
	inflight int64 // with this one
}

// Take takes a place whether there is one or not: for a request that a Gate has
// let through, and for all that must not be refused.
func (l *Limiter) Take() Permit {
	epoch := l.epoch.Load() // before it counts: see probe.left
	return Permit{limiter: l, epoch: epoch, inflight: l.inflight.Add(1), born: l.ages.enter()}
}

// Done gives the place back, when the first byte has come or the attempt has
// failed. ttfb is the time to first byte; it counts only if the outcome is OK.
func (p Permit) Done(ttfb time.Duration, outcome Outcome, now time.Time) {
	l := p.limiter
	if l == nil {
		return
	}
	if l.ages.leave(p.born) {
		l.inflight.Add(-1)
	}
	l.learn(p, ttfb, outcome, now.Sub(l.start))
	for _, g := range *l.gates.Load() {
		g.Wake()
	}
}

func (l *Limiter) learn(p Permit, ttfb time.Duration, outcome Outcome, t time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.knee.peaks.add(float64(p.inflight), t)
	if outcome == Abandoned && l.knee.base == 0 && ttfb >= longestWait {
		outcome = Overload // nobody has been answered yet
	}
	if l.evidence.count(outcome, t) {
		l.knee.hint(t)
	}
	long := float64(ttfb) > slowFactor*l.knee.base && l.knee.base > 0
	if outcome == OK || outcome == Abandoned && long && !l.evidence.answers() {
		s := sample{time: float64(max(ttfb, 1)), epoch: p.epoch, inflight: float64(p.inflight)}
		l.learnTimeLocked(s, t)
	}
	l.publishLocked(l.evidence.holds(t))
}

func (l *Limiter) learnTimeLocked(s sample, t time.Duration) {
	k, e := &l.knee, &l.evidence
	if k.base > 0 {
		s.time = min(s.time, max(outlier*k.base, leastOutlier))
	}
	inflight := float64(l.inflight.Load())
	if e.slow(s.cut(k.base), inflight, k) {
		e.note(t)
		k.lower(e.recent.began, e.recent.time, 2*k.memory(), t)
	}
	if k.add(s, inflight, t) {
		k.update(inflight, l.refused.Swap(false), t)
		e.judge(k.crowded, t)
	}
}

// Tick ends what is over by time alone: evidence, probes, and the counting of
// requests that are worked on for longer than any estimate is about. Call it some
// four times a second.
func (l *Limiter) Tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := now.Sub(l.start)
	if forgotten := l.ages.turn(t); forgotten > 0 {
		l.inflight.Add(-forgotten)
	}
	l.knee.endLate(float64(l.inflight.Load()), t)
	l.publishLocked(l.evidence.holds(t))
}

// Reset forgets everything about the origin but what is in flight.
func (l *Limiter) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	epoch := l.knee.probe.epoch + 1
	l.knee, l.evidence = knee{limit: initialLimit}, evidence{}
	l.knee.probe.at, l.knee.probe.epoch = initialLimit, epoch
	l.publishLocked(false)
}

func (l *Limiter) publishLocked(engaged bool) {
	l.limit.Store(int64(l.knee.limit))
	l.inForce.Store(int64(l.knee.inForce()))
	l.epoch.Store(l.knee.probe.epoch)
	l.engaged.Store(engaged)
}

// Status is what a Limiter knows.
type Status struct {
	Limit, Taken int
	Engaged      bool
	Why          Why           // what the evidence is; "" if there is none
	Unloaded     time.Duration // an answer's time without load; 0: not known
	Latency      time.Duration // the mean over the last answers; 0: not known
}

// Status tells it for people.
func (l *Limiter) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{
		Limit: l.Limit(), Taken: l.InFlight(), Engaged: l.Engaged(),
		Unloaded: time.Duration(l.knee.base), Latency: time.Duration(l.evidence.recent.time),
	}
	switch {
	case l.engaged.Load():
		s.Why = l.evidence.why
	case s.Engaged:
		s.Why = Told
	}
	return s
}

// SetPressure tells what the origin itself, or this host, says of its load: 0 is
// none, 1 the most. Any pressure is evidence of overload.
func (l *Limiter) SetPressure(p float64) { l.pressure.Store(uint32(1000 * min(max(p, 0), 1))) }

// Room is how many more requests of this class the origin takes. Those that are
// critical take no part in a probe: while the others make room for it, they would
// wait for too long.
func (l *Limiter) Room(class Class) int {
	limit := l.inForce.Load()
	if class >= Critical {
		limit = l.limit.Load()
	}
	return int(l.capped(limit) - l.inflight.Load())
}

// SetCeiling sets how many requests the origin gets at the most, whatever is found
// out and whether there is evidence of overload or not; 0 is no ceiling.
func (l *Limiter) SetCeiling(n int) {
	if l.ceiling.Swap(int64(max(n, 0))) == int64(n) {
		return
	}
	for _, g := range *l.gates.Load() {
		g.Wake() // it may have been raised
	}
}

// Spare is how many more requests the ceiling allows; math.MaxInt without one.
func (l *Limiter) Spare() int {
	c := l.ceiling.Load()
	if c == 0 {
		return math.MaxInt
	}
	return int(c - l.inflight.Load())
}

func (l *Limiter) capped(limit int64) int64 {
	if c := l.ceiling.Load(); c > 0 {
		return min(limit, c)
	}
	return limit
}

// Limit is how many requests the origin takes at the same time.
func (l *Limiter) Limit() int { return int(l.capped(l.limit.Load())) }

// InFlight is how many places are taken.
func (l *Limiter) InFlight() int { return int(l.inflight.Load()) }

// Engaged tells that there is evidence of overload. It ends when for ten seconds
// there was none and the limit would have kept nobody away.
func (l *Limiter) Engaged() bool { return l.engaged.Load() || l.pressure.Load() > 0 }

// Press notes that the limit kept a request away. If it was the ceiling, that says
// nothing about the limit.
func (l *Limiter) Press() {
	if limit := l.inForce.Load(); l.capped(limit) < limit {
		return
	}
	if !l.refused.Load() { // spares others the cache line
		l.refused.Store(true)
	}
}

// join makes the gate hear of places that become free.
func (l *Limiter) join(g *Gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := append([]*Gate{g}, *l.gates.Load()...)
	l.gates.Store(&list)
}

func (l *Limiter) leave(g *Gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*Gate
	for _, other := range *l.gates.Load() {
		if other != g {
			list = append(list, other)
		}
	}
	l.gates.Store(&list)
}
