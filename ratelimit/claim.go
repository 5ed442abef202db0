// SPDX-License-Identifier: Apache-2.0

// Claims: identities that clients bring along, as keys in a header, and that
// only whoever answers can check.

package ratelimit

import "time"

// identify finds the request's identity, unless it is its token's: a verified user,
// or a claim that was confirmed in this network. A confirmed claim is as good as a
// proven token and no better, for nobody knows whether whoever answers looks at it at
// all.
func (c *call) identify() {
	switch {
	case c.r.User != "":
		// Whatever host it names: it would have a budget for each.
		c.user = max(1, c.z.secret.identity(c.r.User, "", c.r.Source))
	case c.r.Claim != "":
		key := c.z.claimKey(&c.r)
		if confirmed, long := c.confirmed(key); confirmed {
			c.user, c.claimed, c.claimYoung = key.hash, true, long < tenure
		}
	}
}

// claimKey keeps claims apart from users of the same name.
func (z *Zone) claimKey(r *Request) identityKey {
	return identityKey{max(1, z.secret.sum(z.secret.identity(r.Claim, r.Scope, r.Source), 6)), true}
}

// home is the request's network, as homes keep it.
func (c *call) home() uint32 { return c.z.secret.home(homeOf(c.addr)) }

// confirmed tells that a claim is, in the request's network, and for how long: a key that
// many hosts show would otherwise be confirmed for all of them at the price of one.
func (c *call) confirmed(key identityKey) (confirmed bool, long time.Duration) {
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	id := c.z.identities.findLocked(hash, key)
	if id == nil {
		return false, 0
	}
	at := id.homes.find(c.home())
	if at == nil {
		return false, 0
	}
	at.seen = stamp(c.since)
	return true, c.since - sinceStamp(at.since)
}

// Confirm tells that a request with a claim was answered as only those are whose
// claim is right. From then on the claim is an identity in the network that it came
// from, beside a few others where it was confirmed, and nowhere else. That takes a credit,
// as being proven does: whoever makes up claims where nobody checks them gets no further
// than with cookies.
func (z *Zone) Confirm(p *Policy, r *Request, d Decision, pressure float64, now time.Time) {
	if r.Claim == "" || r.User != "" || !d.Allowed || d.Reason == Lent {
		return
	}
	c := z.newCall(p, r, pressure, now)
	if key := z.claimKey(r); !c.claimed && c.hasPlace(key) {
		mu := c.enter()
		defer mu.Unlock()
		if c.promote(&c.leaf.promote) {
			c.rememberAs(key)
		}
	}
}

// hasPlace tells that a claim may be confirmed in one more network.
func (c *call) hasPlace(key identityKey) bool {
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	id := c.z.identities.findLocked(hash, key)
	return id == nil || !id.homes.full(c.since)
}

// Deny tells that a request was answered as those are whose claim is wrong, or is
// right no longer. What it has used up stays so, should it be confirmed again. Only
// where it was confirmed does that count: a stranger must not take it from its owner.
func (z *Zone) Deny(r *Request) {
	if r.Claim == "" || r.User != "" {
		return
	}
	key := z.claimKey(r)
	hash := z.secret.sum(key.hash, 3)
	mu := z.identities.lock(hash)
	defer mu.Unlock()
	if id := z.identities.findLocked(hash, key); id != nil {
		if at := id.homes.find(z.secret.home(homeOf(r.Addr))); at != nil {
			*at = home{}
		}
	}
}
