// SPDX-License-Identifier: Apache-2.0

// Which token a client gets: at first, later, and when it has proved itself.

package ratelimit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// offer tells that an answer may carry a token. Refused requests get none, or
// whoever is refused would be known by that. In Auto there are none while
// nothing depends on them, not even for addresses that ask for much: whoever did so
// in calm times would be proven before all honest visitors when pressure comes.
func (c *call) offer() bool {
	if !c.dec.Allowed || c.p.CookieLifetime == 0 || c.user != 0 {
		return false
	}
	return c.p.clientBinds() || c.pressure > 0
}

// Due tells whether Issue may have a token for a request that was decided so: most
// clients have one that is good for a while.
func Due(p *Policy, r *Request, d *Decision, now time.Time) bool {
	if !d.Offer || d.Class == Unknown {
		return d.Offer
	}
	_, earned := r.Token.next(p.CookieLifetime, now)
	return earned != stay
}

// Issue returns the token to send with the answer to an allowed request, if one
// is due. Call it only for answers that no shared cache keeps, and mint what it
// returns: it may have cost a credit.
func (z *Zone) Issue(p *Policy, r *Request, d Decision, pressure float64, now time.Time) (Token, bool) {
	if !d.Offer {
		return Token{}, false
	}
	if d.Class == Unknown {
		return Token{ID: z.newID(), Issued: now, First: now, Stage: Given}, true
	}
	to, earned := r.Token.next(p.CookieLifetime, now)
	switch earned {
	case stay:
		return Token{}, false
	case rewrite:
		return to, true
	}
	c := z.newCall(p, r, pressure, now)
	if c.prove(earned, d) {
		return to, true
	}
	if earned == promote && r.Token.worn(p.CookieLifetime, now) {
		to.Stage, to.First = Kept, r.Token.First
		return to, true // waits on, and must not expire meanwhile
	}
	// One that roams stays as it is, for where it is proven: it asks again with the next
	// request.
	return Token{}, false
}

// prove makes an identity a proven one of its address, if there is a credit. One
// that was proven here before needs none: a token that is shown again and again
// does not use up the credits of others.
func (c *call) prove(by move, d Decision) bool {
	mu := c.enter()
	defer mu.Unlock()
	if c.provenHere() {
		return true
	}
	if by == roam {
		return c.promote(&c.leaf.roam) && c.remember()
	}
	if d.Reason == Lent || !c.z.bins.mostlyAllowed(c.ownBin()) {
		return false
	}
	return c.promote(&c.leaf.promote) && c.remember()
}

// promote takes a credit from the address, one of its two kinds, from its sites and
// from all. None is taken unless all have one, or an attack elsewhere would use up
// this address's credits, and one here its network's.
func (c *call) promote(own *rate.Limiter) bool {
	retune(&c.leaf.promote, promoteRate*max(0.1, 1-c.pressure), promoteBurst, c.now)
	if c.leaf.count >= maxUsers || !hasCredit(own, c.now) || !hasCredit(&c.z.global.promote, c.now) {
		return false
	}
	return c.atSites(hasCredit) && take(own, unit, c.now) && c.atSites(takeCredit) && takeCredit(&c.z.global.promote, c.now)
}

func hasCredit(l *rate.Limiter, now time.Time) bool  { return l.TokensAt(now) >= unit }
func takeCredit(l *rate.Limiter, now time.Time) bool { return take(l, unit, now) }

// atSites tells that something holds of the credits of all networks around.
func (c *call) atSites(holds func(*rate.Limiter, time.Time) bool) bool {
	around, b := sitesOf(c.addr), c.siteBudget()
	for i, n := range around.net[:around.n] {
		s, mu := c.z.siteLocked(n, b.of(around.size[i]), c.now)
		ok := holds(&s.promote, c.now)
		mu.Unlock()
		if !ok {
			return false
		}
	}
	return true
}

// siteLocked finds or makes a site.
func (z *Zone) siteLocked(n network, b siteBudget, now time.Time) (*site, *sync.Mutex) {
	hash := z.secret.network(n)
	mu := z.sites.lock(hash)
	s, from := z.sites.claimLocked(hash, n, now)
	if from != found {
		s.begin(from, b, now)
	}
	return s, mu
}

// provenHere tells that the identity is known to be proven in this network.
func (c *call) provenHere() bool {
	key := identityKey{hash: c.r.Token.ID}
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	id := c.z.identities.findLocked(hash, key)
	return id != nil && id.homes.find(c.home()) != nil
}

// remember gives the token's identity a bucket of its own.
func (c *call) remember() bool { return c.rememberAs(identityKey{hash: c.r.Token.ID}) }

// rememberAs makes the request's network one of an identity's homes.
func (c *call) rememberAs(key identityKey) bool {
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	id, from := c.z.identities.claimLocked(hash, key, c.now)
	if from != found {
		rate, burst := c.p.ClientBudget()
		id.begin(from, rate, burst)
	}
	id.homes.enter(c.home(), c.since)
	return true
}
