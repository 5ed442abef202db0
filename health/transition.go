// SPDX-License-Identifier: Apache-2.0

// What changes about an origin or a pool, as values to be logged.

package health

import "time"

// State is what an origin is to the choice of origins.
type State uint32

// The states of an origin.
const (
	// Healthy: takes requests; a share of them while it starts slowly.
	Healthy State = iota
	// Ejected: takes no requests until its time is over.
	Ejected
	// Probing: its time is over, it takes one trial request at a time.
	Probing
	// Draining: an operator wants it to finish what it has and take no more.
	Draining
)

// String gives the word used in logs and by the admin API.
func (s State) String() string {
	return [...]string{"healthy", "ejected", "probing", "draining"}[s]
}

// Reason is why a Transition happened, in one word for logs.
type Reason string

// The reasons of transitions.
const (
	ReasonFailing       Reason = "failing"        // it fails far more often than its peers
	ReasonSlow          Reason = "slow"           // it is slow far more often than its peers
	ReasonBroken        Reason = "broken"         // a fault that cannot pass by itself, as an expired certificate
	ReasonTrialFailed   Reason = "trial_failed"   // it failed the trial after an ejection
	ReasonTrialPassed   Reason = "trial_passed"   // it passed three trials in a row
	ReasonProbed        Reason = "probed"         // it could not be connected to, and a probe now can
	ReasonMaxShare      Reason = "max_share"      // it stays, or returns, because too many are out
	ReasonManual        Reason = "manual"         // an operator ejected, drained or restored it
	ReasonPoolFault     Reason = "pool_fault"     // all origins of the pool fail alike: no further one is ejected
	ReasonPoolRecovered Reason = "pool_recovered" // the end of that
)

// Transition is a change, with the figures that explain it. From and To are
// equal if it was decided not to change anything, and where the pool as a whole
// is concerned.
type Transition struct {
	Addr     string // the origin; the one that showed it, for a pool
	From, To State
	Reason   Reason
	Fault    // the one that was decisive; zero if there was none

	Slow     bool    // Rate, Peers and Score are of slow answers, not of failures
	Rate     float64 // failure rate since the origin turned bad; for a pool over ten seconds
	Peers    float64 // the peers' failure rate in the same time
	Own      float64 // where the pool is concerned, the origin's own failure rate
	Requests int     // the origin's requests in that time; for a pool over ten seconds
	Score    float64 // evidence: ejected from 12
	// Latency is the origin's decaying peak, PeersMedian what it is held against;
	// only of a slow origin.
	Latency, PeersMedian time.Duration

	// Upstreams is how many origins are in use, Out how many of these take no
	// requests afterwards, by whomever's decision.
	Upstreams, Out int
	// Alone tells of a pool fault that there were no peers to compare with.
	Alone bool
	// Lasted is how long the pool fault that ends has lasted; of an origin that
	// returns, how long it was out.
	Lasted time.Duration
	// Trials is how many trials in a row brought an origin back.
	Trials int

	// Level counts ejections in a row, for which Until doubles.
	Level int
	// Until is when an ejection ends; zero if there is none, or until restored.
	Until time.Time
}

// faultOf is a Fault for a Transition.
func faultOf(f *Fault) Fault {
	if f == nil {
		return Fault{}
	}
	return *f
}

// censusLocked counts the origins in use, and those that take no requests.
func (p *Pool) censusLocked() (all, out int) {
	for _, m := range p.byAddr {
		if m.refs == 0 {
			continue
		}
		if all++; m.State() != Healthy {
			out++
		}
	}
	return all, out
}

// ending tells of the time that m was out, as it returns.
func (e *Transition) ending(p *Pool, m *Member, t time.Duration) {
	e.Trials, e.Lasted = m.passed, t-m.left
	e.Upstreams, e.Out = p.censusLocked()
}
