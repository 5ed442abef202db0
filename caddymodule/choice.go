// SPDX-License-Identifier: Apache-2.0

// One choice of an upstream, for one attempt.

package caddymodule

import (
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// question is what a choice is made from.
type question struct {
	Selection
	ex     *exchange
	pool   reverseproxy.UpstreamPool
	roster *roster
	r      *http.Request
	w      http.ResponseWriter
	now    time.Time
	trial  bool // the request may be the trial of an ejected origin
	// weights are those of weighted_round_robin; nil for any other policy.
	weights map[*reverseproxy.Upstream]int
}

// usable tells the choice of two which upstreams Caddy itself has not taken out:
// by active checks, max_fails or max_requests.
type usable struct {
	pool   reverseproxy.UpstreamPool
	gate   *concurrency.Gate // nil: no upstream is full
	limits []*concurrency.Limiter
	class  concurrency.Class
}

// Usable implements health.Usable.
func (u *usable) Usable(i int) bool {
	return i < len(u.pool) && u.pool[i].Available() && !u.isFull(i)
}

func (u *usable) isFull(i int) bool {
	return u.gate != nil && i < len(u.limits) && u.gate.Keeps(u.limits[i], u.class)
}

// pick makes the choice of two; ok is false if it cannot be made that way.
func (q *question) pick() (u *reverseproxy.Upstream, ok bool) {
	q.ex.usable = usable{q.pool, q.site.steering(), q.roster.limits, q.ex.class}
	ask := health.Request{Tried: q.ex.triedMembers, Trial: q.trial, Usable: &q.ex.usable}
	c, found := q.site.view.Pick(ask, q.now)
	if (!found || c.LastResort) && !c.Trial && q.ex.usable.gate != nil {
		// It was let through, or is a retry: a full upstream is better than an
		// ejected one.
		q.ex.usable.gate = nil
		c, found = q.site.view.Pick(ask, q.now)
	}
	if !found {
		return nil, true
	}
	if u = at(q.pool, c); u == nil || !u.Available() { // the upstreams have changed at this moment
		q.ex.member, q.ex.trial = c.Member, c.Trial
		q.ex.giveBackTrial(q.now)
		return nil, false
	}
	q.ex.member, q.ex.trial = c.Member, c.Trial
	return u, true
}

// at finds the upstream that was chosen. Dynamic upstreams may have come in
// another order since.
func at(pool reverseproxy.UpstreamPool, c health.Choice) *reverseproxy.Upstream {
	if c.Index < len(pool) && pool[c.Index].String() == c.Member.Addr() {
		return pool[c.Index]
	}
	for _, u := range pool {
		if u.String() == c.Member.Addr() {
			return u
		}
	}
	return nil
}

// choose lets the operator's policy choose among the upstreams that are fit.
func (q *question) choose() *reverseproxy.Upstream {
	view := q.site.view
	if q.policy != nil && !q.ex.AnyTried() && view.Calm(q.now) {
		// The healthy path: nothing to filter.
		if u := q.policy.Select(q.pool, q.r, q.w); u == nil || !q.isFull(u) {
			return u
		}
	}
	if policy, ok := q.policy.(*reverseproxy.WeightedRoundRobinSelection); ok {
		q.pool, q.weights = withWeight(q.pool, policy.Weights)
	}
	fit := q.best()
	for len(fit) > 0 {
		u := q.ask(fit)
		if u == nil {
			return nil
		}
		m := q.member(u)
		if m.State() == health.Healthy || view.Fitness(m, q.trial, q.now) != health.Fit {
			q.ex.member = m
			return u
		}
		if view.Claim(m, q.now) {
			q.ex.member, q.ex.trial = m, true
			return u
		}
		q.trial = false // another request is the trial
		fit = q.best()
	}
	return nil
}

// isFull tells that the upstream works on as many requests as it can take.
func (q *question) isFull(u *reverseproxy.Upstream) bool {
	gate := q.site.steering()
	if gate == nil || q.roster.limiter == nil {
		return false
	}
	l := q.roster.limiter[q.member(u)]
	return l != nil && gate.Keeps(l, q.ex.class)
}

func (q *question) member(u *reverseproxy.Upstream) *health.Member {
	return q.site.member(q.roster, u, q.r, q.now)
}

// best returns the available upstreams of the best class that is not empty: fit
// and untried ones with room; then those without; then those that failed least
// often in this request and not last; then the ones that are broken, or were the
// last.
func (q *question) best() reverseproxy.UpstreamPool {
	const classes = 5
	var class [classes]reverseproxy.UpstreamPool
	least := -1
	for _, u := range q.pool {
		if !u.Available() {
			continue
		}
		fitness := q.site.view.Fitness(q.member(u), q.trial, q.now)
		name := u.String()
		tried := q.ex.Tried(name)
		switch {
		case fitness == health.TakenOut:
		case fitness == health.Fit && tried == 0 && !q.isFull(u):
			class[0] = append(class[0], u)
		case fitness == health.Fit && tried == 0:
			class[1] = append(class[1], u)
		case fitness == health.Broken:
			class[4] = append(class[4], u)
		case name == q.ex.LastTried():
			class[3] = append(class[3], u)
		case least < 0 || tried < least:
			least, class[2] = tried, append(class[2][:0], u)
		case tried == least:
			class[2] = append(class[2], u)
		}
	}
	if thinned := q.thin(class[0]); len(thinned) > 0 {
		return thinned
	}
	for _, c := range class {
		if len(c) > 0 {
			return c
		}
	}
	return nil
}

// thin leaves out upstreams that start slowly after an ejection, for the part of
// the requests that they are not to get yet. Where a client belongs to an
// upstream, it goes there as soon as that is back.
func (q *question) thin(pool reverseproxy.UpstreamPool) reverseproxy.UpstreamPool {
	if q.sticky {
		return pool
	}
	var kept reverseproxy.UpstreamPool
	for _, u := range pool {
		if share := q.site.view.Share(q.member(u), q.now); share >= 1 || rand.Float64() < share {
			kept = append(kept, u)
		}
	}
	return kept
}

// ask lets the operator's policy choose. One that takes turns is not asked for a
// retry: that would take a turn of its own, and with one upstream of three at
// fault half of all requests would begin there instead of a third.
func (q *question) ask(fit reverseproxy.UpstreamPool) *reverseproxy.Upstream {
	switch q.policy.(type) {
	case nil:
		return anyOf(fit, nil)
	case *reverseproxy.RoundRobinSelection:
		if q.ex.AnyTried() {
			return anyOf(fit, nil)
		}
	case *reverseproxy.WeightedRoundRobinSelection:
		return anyOf(fit, q.weights) // it knows them by position only, in the whole pool
	}
	if u := q.policy.Select(fit, q.r, q.w); u != nil {
		return u
	}
	// A policy may have but one upstream in mind, or none: that is its to say.
	return q.policy.Select(q.pool, q.r, q.w)
}

// isSticky tells whether the policy binds clients or addresses to upstreams.
// Those of other modules might, too.
func isSticky(policy reverseproxy.Selector) bool {
	switch policy.(type) {
	case *reverseproxy.RandomSelection, reverseproxy.RandomSelection,
		*reverseproxy.RandomChoiceSelection, reverseproxy.RandomChoiceSelection,
		*reverseproxy.LeastConnSelection, reverseproxy.LeastConnSelection,
		*reverseproxy.RoundRobinSelection, *reverseproxy.WeightedRoundRobinSelection:
		return false
	}
	return true
}
