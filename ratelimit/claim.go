// SPDX-License-Identifier: Apache-2.0

// Claims: identities that clients bring along, as keys in a header, and that
// only whoever answers can check.

package ratelimit

import "time"

// verified is the hash of the request's verified identity; 0: it has none.
func (c *call) verified() uint64 {
	switch {
	case c.r.User != "":
		return max(1, c.z.secret.text(c.r.User))
	case c.r.Claim == "":
		return 0
	}
	if key := c.z.claimKey(c.r.Claim); c.z.knows(key) {
		return key.hash
	}
	return 0
}

// claimKey keeps claims apart from users of the same name.
func (z *Zone) claimKey(claim string) identityKey {
	return identityKey{max(1, z.secret.sum(z.secret.text(claim), 6)), true}
}

func (z *Zone) knows(key identityKey) bool {
	hash := z.secret.sum(key.hash, 3)
	mu := z.identities.lock(hash)
	defer mu.Unlock()
	return z.identities.findLocked(hash, key) != nil
}

// Confirm tells that a request with a claim was answered as only those are whose
// claim is right. From then on the claim is an identity. That takes a credit, as
// being proven does: whoever makes up claims where nobody checks them gets no
// further than with cookies.
func (z *Zone) Confirm(p *Policy, r *Request, d Decision, pressure float64, now time.Time) {
	if r.Claim == "" || r.User != "" || !d.Allowed || d.Class == Verified || d.Reason == Lent {
		return
	}
	key := z.claimKey(r.Claim)
	if z.knows(key) {
		return
	}
	c := z.newCall(p, r, pressure, now)
	mu := c.enter()
	defer mu.Unlock()
	if c.leaf.count < maxUsers && c.promote() {
		c.rememberAs(key)
	}
}
