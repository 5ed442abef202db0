// SPDX-License-Identifier: Apache-2.0

// What the admin API shows of an origin.

package health

import "time"

// Standing is an origin as it is, with the figures that explain it.
type Standing struct {
	Addr  string
	State State
	// Manual tells that the state is an operator's order.
	Manual bool
	// Reason is why it was ejected last; "" if it never was.
	Reason Reason
	// Since is when the present state began; for an origin that was never out,
	// when it became known.
	Since time.Time
	// Until is when the ejection ends; zero if there is none, or until restored.
	Until time.Time
	// Level counts ejections in a row.
	Level int
	// InFlight is how many requests it works on.
	InFlight int64
	// Requests and FailureRate are of the last ten seconds.
	Requests    int
	FailureRate float64
	// Failing is the average of failures that weighs in the choice.
	Failing float64
	// Score and SlowScore are the evidence that it fails, or is slow, more than
	// its peers: ejected from 12.
	Score, SlowScore float64
	// Latency is the decaying peak that weighs in the choice, Median the median
	// of the time to the first byte, of however few answers; 0 if unknown.
	Latency, Median time.Duration
	// Share is how much of its requests it gets: less than 1 while it starts
	// slowly, 0 while it is out.
	Share float64
	// LimitsIdle tells that connections which were idle for longer than IdleLimit
	// are not used again: the origin closes them, or something on the way does.
	LimitsIdle bool
	IdleLimit  time.Duration
}

// Standing tells what is known about each origin of the view, in its order.
func (v *View) Standing(now time.Time) []Standing {
	list, t := *v.origins.Load(), v.pool.at(now)
	all := make([]Standing, len(list))
	for i := range list {
		all[i] = v.standing(list[i].m, t)
	}
	return all
}

func (v *View) standing(m *Member, t time.Duration) Standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults.recent.advance(t, m.faults.own)
	recent := m.faults.lately()
	s := Standing{
		Addr: m.addr, State: m.State(), Manual: m.manual.Load(), Reason: m.outFor, Level: m.level,
		Since:    v.pool.begin.Add(time.Duration(m.since.Load())),
		InFlight: m.InFlight(), Requests: int(recent.all / unit), FailureRate: recent.rate(),
		Failing: m.failing.read(forget, t), Score: m.faults.score, SlowScore: m.slow.score,
		Latency: time.Duration(m.latency.read(latencyMemory, t)), Median: m.ttfb.median(1),
	}
	s.IdleLimit, s.LimitsIdle = m.keepAlive.Limit(v.pool.begin.Add(t))
	if until := m.until.Load(); s.State == Ejected && until != forever {
		s.Until = v.pool.begin.Add(time.Duration(until))
	}
	if s.State == Healthy {
		s.Share = v.shareOf(m, t)
	}
	return s
}

// shareOf is 1 but for an origin that starts slowly.
func (v *View) shareOf(m *Member, t time.Duration) float64 {
	back := m.returned.Load()
	if back == 0 {
		return 1
	}
	return v.policy.share(t - time.Duration(back))
}

// Manual tells that the origin's state is an operator's order.
func (m *Member) Manual() bool { return m.manual.Load() && m.State() != Healthy }
