// SPDX-License-Identifier: Apache-2.0

// From outcomes to states: who is ejected, who returns.

package health

import (
	"math"
	"time"
)

// Observe counts how an attempt at an origin ended and returns what changed,
// nearly always nothing. Each attempt is observed once; a request that was given
// out as a trial must be, even if it was never sent (with a fault of weight 0).
func (v *View) Observe(m *Member, o Outcome, now time.Time) []Transition {
	p, t := v.pool, v.pool.at(now)
	events := p.tick(t)
	events = append(events, v.Trim(now)...)
	next := stay
	if !m.stray && (o.Fault == nil || o.Fault.Weight > 0) {
		o.paceless = v.policy.Bound
		next = m.record(&o, p, t)
	}
	if next != stay {
		events = append(events, v.settle(m, next, o.Fault, t)...)
	}
	if o.Trial && m.State() == Probing {
		m.endTrial(&o, next, t)
	}
	return events
}

// endTrial lets another request be the trial: at once, or, if the origin was asked
// and this one decided nothing, a little later. It would otherwise get one after
// the other while it pushes back.
func (m *Member) endTrial(o *Outcome, next step, t time.Duration) {
	if o.Fault == nil || o.Fault.Cause == "" || next != stay {
		m.trial.Store(0)
		return
	}
	m.pauseTrials(t)
}

// pauseTrials makes the trial under way time out in a moment.
func (m *Member) pauseTrials(t time.Duration) { m.trial.Store(int64(t - trialTimeout + trialPause)) }

// TrialBegun tells that the origin has begun to answer a trial that Pick or Claim
// gave out. How it ends still decides, but that may take as long as the client
// likes: another may begin in a moment.
func (v *View) TrialBegun(m *Member, now time.Time) {
	if m.State() == Probing {
		m.pauseTrials(v.pool.at(now))
	}
}

// settle does what record found necessary, if it still is and policy allows it.
func (v *View) settle(m *Member, next step, f *Fault, t time.Duration) []Transition {
	p := v.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refs == 0 {
		return nil // its last View was closed meanwhile
	}
	switch state := m.State(); {
	case state == Probing && next == passTrials:
		return []Transition{v.returnLocked(m, ReasonTrialPassed, t)}
	case state == Probing && next == failTrial:
		return v.failTrialLocked(m, f, t)
	case state != Healthy || next == passTrials || next == failTrial:
		return nil // another outcome was faster
	case next == goCommon:
		return v.poolFaultLocked(m, f, t)
	}
	return v.goOutLocked(m, next, f, t)
}

// goOutLocked ejects an origin that deserves it, unless too many are out. Where
// it is the last one left, its fault is the pool's.
func (v *View) goOutLocked(m *Member, next step, f *Fault, t time.Duration) []Transition {
	p, reason := v.pool, ReasonBroken
	switch next {
	case goFailing:
		reason = ReasonFailing
	case goSlow:
		reason = ReasonSlow
	}
	if !v.policy.Off && p.out < v.policy.maxOut(p.active) {
		return []Transition{v.ejectLocked(m, reason, f, t)}
	}
	if p.active-p.out <= 1 && next != goSlow {
		return v.poolFaultLocked(m, f, t)
	}
	if m.kept || v.policy.Off || m.keptAt > 0 && t-m.keptAt < keptQuiet && t >= m.keptAt {
		return nil
	}
	m.kept, m.keptAt = true, t
	e := m.explain(p, reason == ReasonSlow)
	e.Reason, e.Fault = ReasonMaxShare, faultOf(f)
	return []Transition{e}
}

// ejectLocked takes an origin out. Ejections in a row grow longer; a time of
// health makes up for earlier ones.
func (v *View) ejectLocked(m *Member, reason Reason, f *Fault, t time.Duration) Transition {
	p := v.pool
	e := m.explain(p, reason == ReasonSlow || reason == ReasonTrialFailed && f == nil)
	switch from := m.State(); {
	case from == Healthy && m.returned.Load() == 0:
		m.level = 0
	case from == Healthy:
		m.level = max(0, m.level-int((t-time.Duration(m.returned.Load()))/ejectionForgiven))
	}
	m.level = min(m.level+1, maxEjectLevel)
	if reason != ReasonTrialFailed {
		m.outFor = reason
	}
	m.passed, m.probes = 0, 0
	m.until.Store(int64(t + v.policy.duration(m.level, p.random.Float64())))
	p.setLocked(m, Ejected, false, t)
	m.trial.Store(0)
	e.To, e.Reason, e.Fault, e.Level = Ejected, reason, faultOf(f), m.level
	e.Upstreams, e.Out = p.censusLocked()
	e.Until = p.begin.Add(time.Duration(m.until.Load()))
	return e
}

// failTrialLocked ejects anew. What an operator had ejected counts as any other
// origin from here on.
func (v *View) failTrialLocked(m *Member, f *Fault, t time.Duration) []Transition {
	p := v.pool
	if !m.manual.Load() {
		return []Transition{v.ejectLocked(m, ReasonTrialFailed, f, t)}
	}
	if v.policy.Off || p.out >= v.policy.maxOut(p.active+1) {
		return []Transition{v.returnLocked(m, ReasonMaxShare, t)}
	}
	return []Transition{v.ejectLocked(m, ReasonTrialFailed, f, t)}
}

// returnLocked gives an origin its requests back, slowly. It starts with half of
// the evidence against it, unless an operator vouches for it.
func (v *View) returnLocked(m *Member, reason Reason, t time.Duration) Transition {
	p := v.pool
	e := m.explain(p, false)
	p.setLocked(m, Healthy, false, t)
	e.ending(p, m, t)
	m.trial.Store(0)
	m.returned.Store(int64(t))
	p.returned.Store(int64(t))
	m.failing.set(0, t)
	m.broken.Store(false)
	m.passed, m.kept, m.reach = 0, false, ""
	m.faults.restart(&p.faults, t)
	m.slow.restart(&p.slow, t)
	m.suspicion.clear()
	if reason == ReasonManual {
		m.faults.trust()
		m.slow.trust()
		m.level = 0
	}
	e.To, e.Reason, e.Level = Healthy, reason, m.level
	return e
}

// Trim lets origins return that the policy does not allow to be out since the
// pool has shrunk without a View to see to it: a reload takes the new one before
// it closes the old one. Observe does it too; this is for when no request comes.
func (v *View) Trim(now time.Time) []Transition {
	if !v.pool.shrunk.Load() {
		return nil
	}
	v.pool.mu.Lock()
	defer v.pool.mu.Unlock()
	return v.trimLocked(v.pool.at(now))
}

// trimLocked lets origins return that the policy does not allow to be out since
// the pool became smaller: the ones whose time is over first.
func (v *View) trimLocked(t time.Duration) []Transition {
	var events []Transition
	p := v.pool
	p.shrunk.Store(false)
	for p.out > v.policy.maxOut(p.active) {
		var first *Member
		for _, m := range p.byAddr {
			if m.refs > 0 && m.isOut() && (first == nil || m.until.Load() < first.until.Load()) {
				first = m
			}
		}
		if first == nil {
			return events
		}
		first.mu.Lock()
		events = append(events, v.returnLocked(first, ReasonMaxShare, t))
		first.mu.Unlock()
	}
	return events
}

const (
	// likePeers is how much of an origin's failure rate its peers must have for the
	// fault to be called common. Less is too little evidence for either.
	likePeers = 0.25
	// leastPoolFault is the share of failures in the last seconds below which
	// nobody need be told of a fault that all have in common.
	leastPoolFault = 0.1
)

// poolFaultLocked notes that m fails and that ejecting it would not help.
func (v *View) poolFaultLocked(m *Member, f *Fault, t time.Duration) []Transition {
	p := v.pool
	own, others := m.faults.sinceChange(&p.faults)
	out, recent := p.outLatelyLocked(m, t), p.faults.recent()
	if p.active-p.out > 1 && others.without(out).rate() < likePeers*own.rate() {
		return nil
	}
	if !p.faulty.Load() && recent.without(out).rate() < leastPoolFault {
		return nil
	}
	p.refused = t
	if p.faulty.Load() {
		return nil
	}
	p.worst = recent.rate()
	p.faulty.Store(true)
	p.struck, p.alone = t, p.active-p.out <= 1
	e := m.explain(p, false)
	e.Reason, e.Fault, e.Alone = ReasonPoolFault, faultOf(f), p.alone
	e.Own, e.Rate, e.Requests = e.Rate, recent.rate(), int(recent.all/unit)
	return []Transition{e}
}

// outLatelyLocked sums up what the origins that are out did in the last seconds:
// they are dealt with, and their failures say nothing of the ones that are left.
// The caller holds m's lock, too.
func (p *Pool) outLatelyLocked(m *Member, t time.Duration) (sum tally) {
	if p.out == 0 {
		return sum
	}
	for _, other := range p.byAddr {
		if other == m || other.refs == 0 || !other.isOut() {
			continue
		}
		other.mu.Lock()
		other.faults.recent.advance(t, other.faults.own)
		lately := other.faults.lately()
		other.mu.Unlock()
		sum.failed += lately.failed
		sum.all += lately.all
	}
	return sum
}

// explain gives the figures of a decision about the origin as it is.
func (m *Member) explain(p *Pool, slow bool) Transition {
	d, sums := &m.faults, &p.faults
	if slow {
		d, sums = &m.slow, &p.slow
	}
	own, others := d.sinceChange(sums)
	e := Transition{
		Addr: m.addr, From: m.State(), To: m.State(), Score: d.score, Level: m.level,
		Slow: slow, Rate: own.rate(), Peers: others.rate(), Requests: int(own.all / unit),
	}
	if slow {
		e.Latency, e.PeersMedian = m.latencies(p)
	}
	e.Upstreams, e.Out = p.censusLocked()
	return e
}

// Probed tells that a probe from outside the traffic reached the origin: how far
// it came is PhaseDial for a connection, PhaseTLS for a handshake, or more. It
// ends an ejection for faults that did not come further than that, and no
// others: an origin that accepts connections and then resets them looks well to
// every probe. After several ejections in a row as many probes must succeed, up
// to eight, a second apart; reached is "" for one that failed.
func (v *View) Probed(m *Member, reached Phase, now time.Time) []Transition {
	p, t := v.pool, v.pool.at(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	proven := min(rank(reached), rank(PhaseTLS))
	if m.refs == 0 || !m.isOut() || m.outFor == ReasonSlow || rank(m.reach) == 0 {
		return nil
	}
	if rank(m.reach) > proven {
		if reached == "" {
			m.probes = 0
		}
		return nil
	}
	if m.probes == 0 || t-m.probedAt >= probeSpacing || t < m.probedAt {
		m.probes, m.probedAt = m.probes+1, t
	}
	if m.probes < min(m.level, maxProbes) {
		return nil
	}
	return []Transition{v.returnLocked(m, ReasonProbed, t)}
}

// Unreachable lists the origins, other than those that were Added, that are out because they could not be connected
// to: a connection that is made, reported to Probed, brings them back.
func (v *View) Unreachable() []*Member {
	if v.pool.troubled.Load() == 0 {
		return nil
	}
	var all []*Member
	for _, e := range *v.origins.Load() {
		if !e.added && e.m.isOut() && e.m.isUnreachable() {
			all = append(all, e.m)
		}
	}
	return all
}

func (m *Member) isUnreachable() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.outFor != ReasonSlow && rank(m.reach) == rank(PhaseDial)
}

// Eject takes an origin out by an operator's order: for so long, or until it is
// restored if that is 0. No policy limits that, and nothing is sent to it as a
// last resort. Afterwards it returns by trials.
func (v *View) Eject(m *Member, long time.Duration, now time.Time) []Transition {
	until := int64(forever)
	if long > 0 {
		until = int64(v.pool.at(now) + min(long, math.MaxInt64/2))
	}
	return v.order(m, Ejected, until, now)
}

// Drain lets an origin finish what it has, until it is restored.
func (v *View) Drain(m *Member, now time.Time) []Transition {
	return v.order(m, Draining, forever, now)
}

// Restore gives an origin its requests back, whoever took them away, and forgets what
// was learned of its idle connections.
func (v *View) Restore(m *Member, now time.Time) []Transition {
	m.keepAlive.Forget()
	return v.order(m, Healthy, 0, now)
}

// order does what an operator wants, and what follows from it for others.
func (v *View) order(m *Member, to State, until int64, now time.Time) []Transition {
	p, t := v.pool, v.pool.at(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	e, changed := v.orderLocked(m, to, until, t)
	if !changed {
		return nil
	}
	others := v.trimLocked(t)
	e.Upstreams, e.Out = p.censusLocked()
	return append([]Transition{e}, others...)
}

func (v *View) orderLocked(m *Member, to State, until int64, t time.Duration) (e Transition, changed bool) {
	p := v.pool
	m.mu.Lock()
	defer m.mu.Unlock()
	if to == Healthy {
		if m.State() == Healthy {
			return Transition{}, false
		}
		return v.returnLocked(m, ReasonManual, t), true
	}
	e = m.explain(p, false)
	e.To, e.Reason, m.outFor, m.passed = to, ReasonManual, ReasonManual, 0
	m.until.Store(until)
	p.setLocked(m, to, true, t)
	m.trial.Store(0)
	if until != forever {
		e.Until = p.begin.Add(time.Duration(until))
	}
	return e, true
}
