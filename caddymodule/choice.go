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

// usable tells the choice which upstreams Caddy itself has not taken out, by
// active checks, max_fails or max_requests, and which have too much to do.
type usable struct {
	pool  reverseproxy.UpstreamPool
	gate  *concurrency.Gate // nil: none is passed over for its load
	loads []*originLoad
	class concurrency.Class
	now   time.Time
	// sticky tells that clients belong to upstreams.
	sticky bool
	// most is how reluctant an upstream may be to be chosen.
	most reluctance
	lot  uint64 // see draw
}

// Usable implements health.Usable.
func (u *usable) Usable(i int) bool {
	return i < len(u.pool) && u.pool[i].Available() && (i >= len(u.loads) || u.reluctanceOf(u.loads[i]) <= u.most)
}

// pick makes the choice of two; ok is false if it cannot be made that way.
func (q *question) pick() (u *reverseproxy.Upstream, ok bool) {
	c, found := q.draw()
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

// draw asks for less and less: one that is as good as those that have room; one
// that would rather be left alone; a full one, as others were faster or it is a
// retry; and only then one that has failed, or any at all.
func (q *question) draw() (c health.Choice, found bool) {
	u := &q.ex.usable
	ask := health.Request{Tried: q.ex.triedMembers, Trial: q.trial, Usable: u}
	for ; ; u.most++ {
		c, found = q.site.view.Pick(ask, q.now)
		if found && (u.most >= isFull || !c.LastResort || c.Trial) || u.gate == nil || u.most == isOut {
			return c, found
		}
	}
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
		if u := q.policy.Select(q.pool, q.r, q.w); u == nil || q.reluctance(u) == welcome {
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

// reluctance tells how far the upstream is to be passed over.
func (q *question) reluctance(u *reverseproxy.Upstream) reluctance {
	if q.ex.usable.gate == nil || q.roster.load == nil {
		return welcome
	}
	return q.ex.usable.reluctanceOf(q.roster.load[q.member(u)])
}

func (q *question) member(u *reverseproxy.Upstream) *health.Member {
	return q.site.member(q.roster, u, q.r, q.now)
}

// best returns the available upstreams of the best class that is not empty: fit
// and untried ones; such that would rather be left alone; full ones; then those
// that failed least often in this request and not last; then the one that was the last; the
// ones that are broken; and those that their agents take out.
func (q *question) best() reverseproxy.UpstreamPool {
	const classes = 7
	var class [classes]reverseproxy.UpstreamPool
	least := -1
	for _, u := range q.pool {
		if !u.Available() {
			continue
		}
		fitness := q.site.view.Fitness(q.member(u), q.trial, q.now)
		name := u.String()
		tried := q.ex.Tried(name)
		load := q.reluctance(u)
		switch {
		case fitness == health.TakenOut:
		case load == isOut:
			class[6] = append(class[6], u)
		case fitness == health.Fit && tried == 0:
			class[load] = append(class[load], u)
		case fitness == health.Broken:
			class[5] = append(class[5], u)
		case name == q.ex.LastTried():
			class[4] = append(class[4], u)
		case least < 0 || tried < least:
			least, class[3] = tried, append(class[3][:0], u)
		case tried == least:
			class[3] = append(class[3], u)
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
