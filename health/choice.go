// SPDX-License-Identifier: Apache-2.0

// Choosing among origins: the better of two that are drawn at random, by
// latency, requests in flight and health.

package health

import "time"

// Request is what the choice must know about a request.
type Request struct {
	// Tried are the origins that the request was sent to, in this order.
	Tried []*Member
	// Trial tells that the request may be used to try an ejected origin: it is
	// idempotent, has no body, and can be sent again.
	Trial bool
	// Usable tells which origins may be chosen for other reasons; nil: all.
	Usable Usable
}

// Usable is what somebody else knows of the origins: their active checks, or how
// many requests they take.
type Usable interface {
	// Usable tells whether the origin with this index in the View may be chosen.
	Usable(index int) bool
}

// Choice is an origin for a request.
type Choice struct {
	Index  int // in what Sync was given
	Member *Member
	// Trial tells that the outcome decides about the origin's return. It must be
	// observed with Trial set.
	Trial bool
	// LastResort tells that no healthy origin was left that was not tried.
	LastResort bool
}

// grade is how bad an origin may be to be chosen.
type grade uint8

const (
	good   grade = iota // healthy, or due for a trial; not tried
	fair                // may well work: neither broken nor tried just now
	anyone              // everyone but those that an operator took out
)

// Pick chooses an origin; ok is false only if there is none but those that an
// operator took out. Its cost does not grow with the number of origins, unless
// most of them are unfit. It fails open: when no origin is fit, the least bad
// one is chosen rather than none.
func (v *View) Pick(r Request, now time.Time) (c Choice, ok bool) {
	list, t := *v.origins.Load(), v.pool.at(now)
	for g := good; g <= anyone; g++ {
		i, j := v.draw(list, &r, g, t)
		if g == good && r.Trial {
			if k := claimOne(list, i, j, t); k >= 0 {
				return Choice{Index: k, Member: list[k].m, Trial: true}, true
			}
			if i, j = healthyOf(list, i), healthyOf(list, j); i < 0 && j < 0 {
				r.Trial = false // others were faster in claiming the trial
				i, j = v.draw(list, &r, g, t)
			}
		}
		if k := v.better(list, i, j, t); k >= 0 {
			return Choice{Index: k, Member: list[k].m, LastResort: g != good}, true
		}
	}
	return Choice{}, false
}

// Claim makes a request the trial of an origin whose ejection is over. It
// returns false if another request is.
func (v *View) Claim(m *Member, now time.Time) bool { return m.claim(v.pool.at(now)) }

// isDue tells that the origin waits for a trial.
func (m *Member) isDue(t time.Duration) bool {
	if s := m.State(); s != Ejected && s != Probing || int64(t) < m.until.Load() {
		return false
	}
	begun := m.trial.Load()
	return begun == 0 || int64(t)-begun >= int64(trialTimeout)
}

func (m *Member) claim(t time.Duration) bool {
	begun := m.trial.Load()
	if !m.isDue(t) || !m.trial.CompareAndSwap(begun, int64(t)) {
		return false
	}
	if m.state.CompareAndSwap(uint32(Ejected), uint32(Probing)) {
		m.since.Store(int64(t))
		return true
	}
	if m.State() == Probing {
		return true
	}
	m.trial.CompareAndSwap(int64(t), 0) // it was restored meanwhile
	return false
}

// claimOne claims the trial of one of the two that waits for it. A trial is
// never weighed against a healthy origin: it would hardly ever come.
func claimOne(list []entry, i, j int, t time.Duration) int {
	for _, k := range [...]int{i, j} {
		if k >= 0 && list[k].m.State() != Healthy && list[k].m.claim(t) {
			return k
		}
	}
	return -1
}

func healthyOf(list []entry, i int) int {
	if i >= 0 && list[i].m.State() == Healthy {
		return i
	}
	return -1
}

// draws is how often origins are drawn at random before all are looked at. With
// half of them unfit, one choice in four thousand looks at all.
const draws = 16

// draw gives two different indices of fit origins, each pair being as likely as
// any other; -1 where there is none.
func (v *View) draw(list []entry, r *Request, g grade, t time.Duration) (i, j int) {
	i = -1
	if len(list) <= 2 {
		return v.scan(list, r, g, t)
	}
	for range draws {
		k := int(below(v.random(), uint64(len(list))))
		if k == i || !r.fits(list, k, g, t) {
			continue
		}
		if i >= 0 {
			return i, k
		}
		i = k
	}
	return v.scan(list, r, g, t)
}

// scan draws two from all that fit.
func (v *View) scan(list []entry, r *Request, g grade, t time.Duration) (i, j int) {
	i, j = -1, -1
	fit := uint64(0)
	for k := range list {
		if !r.fits(list, k, g, t) {
			continue
		}
		fit++
		switch n := below(v.random(), fit); { // a reservoir of two
		case i < 0:
			i = k
		case j < 0:
			j = k
		case n == 0:
			i = k
		case n == 1:
			j = k
		}
	}
	return i, j
}

// below maps a random number to 0 up to n.
func below(random, n uint64) uint64 { return random >> 32 * n >> 32 }

func (r *Request) fits(list []entry, k int, g grade, t time.Duration) bool {
	m := list[k].m
	switch fitness := m.fitness(r.Trial, t); {
	case g == good && (fitness != Fit || r.hasTried(m)),
		g == fair && (fitness < Spare || len(r.Tried) > 0 && r.Tried[len(r.Tried)-1] == m),
		fitness == TakenOut:
		return false
	}
	return r.Usable == nil || r.Usable.Usable(k)
}

// Fitness is how far an origin may be chosen for a request.
type Fitness uint8

// From the worst to the best.
const (
	TakenOut Fitness = iota // an operator's order
	Broken                  // out for a fault that cannot pass by itself: the last resort
	Spare                   // out; when no fit one is left
	Fit                     // healthy, or due for a trial that the request may be
)

// Fitness tells how far the origin may be chosen, for choices that are made
// elsewhere; trial is Request.Trial. If the one that is chosen is Fit and not
// Healthy, it must be Claimed.
func (v *View) Fitness(m *Member, trial bool, now time.Time) Fitness {
	return m.fitness(trial, v.pool.at(now))
}

func (m *Member) fitness(trial bool, t time.Duration) Fitness {
	switch {
	case m.State() == Healthy || trial && m.isDue(t):
		return Fit
	case m.isTakenOut(t):
		return TakenOut
	case m.broken.Load():
		return Broken
	}
	return Spare
}

// Share is which part of its requests an origin gets: less than 1 while it starts
// slowly after an ejection, for choices that are made elsewhere.
func (v *View) Share(m *Member, now time.Time) float64 { return v.shareOf(m, v.pool.at(now)) }

// Calm tells that every origin of the pool is healthy and none starts slowly.
func (v *View) Calm(now time.Time) bool {
	p := v.pool
	if p.troubled.Load() > 0 {
		return false
	}
	returned := p.returned.Load()
	return returned == 0 || p.at(now)-time.Duration(returned) >= v.policy.SlowStart
}

func (r *Request) hasTried(m *Member) bool {
	for _, tried := range r.Tried {
		if tried == m {
			return true
		}
	}
	return false
}

// isTakenOut tells that an operator's order holds.
func (m *Member) isTakenOut(t time.Duration) bool {
	return m.manual.Load() && int64(t) < m.until.Load()
}

// better chooses one of two, the other one now and then: an origin that is never
// asked never shows that it has recovered.
func (v *View) better(list []entry, i, j int, t time.Duration) int {
	if i < 0 || j < 0 {
		return max(i, j)
	}
	a, b := v.cost(&list[i], t), v.cost(&list[j], t)
	if float64(v.random()>>11)/(1<<53)*(a+b) < b {
		return i
	}
	return j
}

// cost is what a request at this origin is expected to cost: its latency for
// each request that is in flight, divided by its weight and health.
func (v *View) cost(e *entry, t time.Duration) float64 {
	m := e.m
	latency := max(float64(leastLatency), m.latency.read(latencyMemory, t))
	if m.latency.value.Load() == 0 {
		latency = float64(v.pool.usualLatency())
	}
	pending := float64(max(0, m.inflight.Load()) + 1)
	return latency * pending / (e.weight * v.shareOf(m, t) * goodness(m.failing.read(forget, t)))
}

// goodness turns the share of failures into a weight: 98 without failures, 14 at
// 5 %, 1 at half. An origin that fails fast is not taken for a fast one.
func goodness(failing float64) float64 {
	ok := 1 - failing
	return ok*ok/(failing+0.01) + 1e-6
}

// usualLatency is what an origin without history is taken to have.
func (p *Pool) usualLatency() time.Duration {
	if d := time.Duration(p.middle.below.Load()); d > 0 {
		return d
	}
	return unknownLatency
}
