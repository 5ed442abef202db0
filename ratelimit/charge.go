// SPDX-License-Identifier: Apache-2.0

// Charging a request to its budgets, the narrowest first.

package ratelimit

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// decide charges a request to all its levels. What one refuses is not charged
// to those outside it: whoever is over a budget of its own costs others nothing.
// Nothing is given back, for that could be used to empty inner budgets.
func (c *call) decide() {
	switch within := c.inner(); {
	case within:
		c.total()
	case c.p.Auto && (c.dec.Level > LevelClient || !c.p.clientBinds()):
		c.lend()
	}
	if c.dec.Allowed {
		c.dec.Level, c.dec.RetryAfter = LevelNone, 0
		c.z.global.admitted.Add(int64(c.cost))
	}
}

// inner charges all levels but the widest.
func (c *call) inner() bool {
	switch {
	case c.z.off&innerFirst != 0:
		return c.innerBackwards()
	case c.dec.Class == Verified:
		return c.client()
	case c.dec.Class == Proven:
		return c.client() && c.provenPool() && c.site()
	}
	return c.bin() && c.unprovenPool() && c.site() && c.unprovenTotal()
}

// innerBackwards charges in the wrong order, to show why it is wrong.
func (c *call) innerBackwards() bool {
	if c.dec.Class >= Proven {
		return c.site() && c.provenPool() && c.client()
	}
	return c.unprovenTotal() && c.site() && c.unprovenPool() && c.bin()
}

// refuse notes where a request was refused and when the bucket has enough again.
func (c *call) refuse(level Level, reason Reason, wait time.Duration) bool {
	c.dec.Level, c.dec.Reason = level, reason
	c.dec.RetryAfter = c.z.retryAfter(wait, level > LevelClient)
	return false
}

// retryAfter makes whole seconds of a wait. Many who wait for the same bucket
// are told different times.
func (z *Zone) retryAfter(wait time.Duration, shared bool) time.Duration {
	most := maxOwnWait
	if shared {
		most = maxWait
	}
	seconds := max(1, math.Ceil(min(wait, most).Seconds()))
	if shared {
		random := float64(z.secret.sum(z.jitter.Add(1), 2)>>11) / (1 << 53)
		seconds += math.Floor(random * (1 + seconds/4))
	}
	return time.Duration(seconds) * time.Second
}

func (c *call) identityKey() identityKey {
	if c.user != 0 {
		return identityKey{c.user, true}
	}
	return identityKey{c.r.Token.ID, false}
}

// client charges the identity's own bucket. When its address is short of room
// that is refilled at the fair rate only; what it holds stays, so that a page
// load that follows a pause still passes.
func (c *call) client() bool {
	key := c.identityKey()
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	id, from := c.z.identities.claimLocked(hash, key, c.now)
	rate, burst := c.p.ClientBudget()
	if from != found {
		id.begin(from, rate, burst)
	}
	if c.user == 0 { // users have none, and claims get theirs from Confirm
		id.homes.enter(c.home(), c.since)
	}
	id.withhold(rate, burst, c.since, c.now)
	c.retuneClient(id, rate, burst)
	c.light = burst-id.lim.TokensAt(c.now)/unit <= min(lightUse, burst*lightPart)
	ok := take(&id.lim, c.cost, c.now)
	c.nominal(id, rate, burst)
	if ok {
		return true
	}
	wait := waitFor(&id.lim, float64(c.cost), c.now)
	if id.withheld >= min(float64(c.cost), burst*unit) {
		return c.refuse(LevelShare, OverFairShare, wait)
	}
	return c.refuse(LevelClient, OverClient, wait)
}

// spendWithheld charges what was lent to an identity that is over its fair share:
// it gets no more than its own budget in all.
func (c *call) spendWithheld() {
	key := c.identityKey()
	hash := c.z.secret.sum(key.hash, 3)
	mu := c.z.identities.lock(hash)
	defer mu.Unlock()
	if id := c.z.identities.findLocked(hash, key); id != nil {
		id.withheld = max(0, id.withheld-float64(c.cost))
	}
}

// clientRate is how fast an identity's bucket is refilled at present. In Auto nothing
// is short without pressure.
func (c *call) clientRate(nominal float64) float64 {
	if c.dec.Class == Verified || c.z.off&fairShare != 0 || c.p.Auto && c.pressure == 0 {
		return nominal
	}
	return min(nominal, c.leaf.fair)
}

func (c *call) retuneClient(id *identity, nominal, burst float64) {
	want := c.clientRate(nominal)
	if have := float64(id.lim.Limit()) / unit; differs(have, want, 0.1) || want == nominal && have != want {
		id.lim.SetLimitAt(c.now, rate.Limit(want*unit))
	}
	if b := int(burst * unit); id.lim.Burst() != b {
		id.lim.SetBurstAt(c.now, b)
	}
}

// nominal tells an identity its budget, not its fair share: that changes all the
// time, with what its neighbours do.
func (c *call) nominal(id *identity, perSecond, burst float64) {
	if !c.p.clientBinds() {
		return
	}
	c.dec.Limit = int(burst)
	c.dec.Window = max(1, time.Duration(math.Round(burst/perSecond))) * time.Second
	c.dec.Remaining = max(0, int(id.lim.TokensAt(c.now)/unit))
}

const (
	// youngLeave is what young identities leave of the proven pool, and lightLeave
	// what those do of them that have used little of their own budget, a page and no
	// more than a quarter: of those who came lately, who asks little goes first.
	youngLeave, lightLeave, lightUse, lightPart = 0.4, 0.2, 15, 0.25
	// borrowUnknown: older proven identities borrow from a pool of the unknown that is
	// fuller than this, known and unknown from one another's, both from a proven
	// one that nearly nobody uses.
	borrowUnknown, borrowOther, borrowProven = 0.5, 0.6, 0.8
	// borrowCalm is the pressure from which the proven pool is not lent.
	borrowCalm = 0.2
	// vouchedReserve of what all unproven traffic shares is for newcomers that
	// others vouch for.
	vouchedReserve = 0.25
)

func (c *call) provenPool() bool {
	l, least, reason := c.leaf, math.Inf(-1), OverAddress
	if c.dec.Young {
		least, reason = youngLeave, OverYoung
		if c.light {
			least = lightLeave
		}
	}
	if takeAbove(&l.proven, least, c.cost, c.now) {
		return true
	}
	if !c.dec.Young && takeAbove(&l.unknown, borrowUnknown, c.cost, c.now) {
		return true
	}
	l.short = true
	need := float64(c.cost) + max(0, least)*float64(l.proven.Burst())
	return c.refuse(LevelAddress, reason, waitFor(&l.proven, need, c.now))
}

// bin charges those who look alike. What a client shows can be forged, and a
// forger finds other bins, but only of the same pool.
func (c *call) bin() bool {
	if c.z.off&binning != 0 || c.roomy() {
		return true
	}
	if c.leaf.ports.tells(c.r.Port, c.now) && c.z.off&portBins == 0 {
		// Carriers give out ports in blocks of 128 or more.
		if !c.takeBin(c.hashBin(uint64(c.r.Port>>7), 2)) {
			return false
		}
	}
	return c.takeBin(c.ownBin())
}

// roomy tells that in Auto nobody needs to be told apart, for the pool has
// enough. Bins would cut the first page of somebody who is alone at an address.
func (c *call) roomy() bool { return c.p.Auto && fullness(c.unprovenOwn(), c.now) > borrowOther }

// unprovenOwn is the pool of the call's class.
func (c *call) unprovenOwn() *rate.Limiter {
	if c.dec.Class == Known {
		return &c.leaf.known
	}
	return &c.leaf.unknown
}

// ownBin is that of the token, or of the look of what has none.
func (c *call) ownBin() uint64 {
	if c.dec.Class == Known {
		return c.hashBin(c.z.secret.sum(c.r.Token.ID, 5)%knownBins, uint64(Known))
	}
	return c.hashBin(c.z.secret.sum(c.r.Look, 5)%unknownBins, uint64(Unknown))
}

func (c *call) hashBin(k, kind uint64) uint64 { return c.z.secret.sum(c.leafHash^k, 16+kind) }

func (c *call) takeBin(hash uint64) bool {
	cost := float64(c.leaf.binCost[c.dec.Class%2^1]) * float64(c.cost) / unit
	ok, wait := c.z.bins.take(hash, int(min(cost, math.MaxInt32)), c.now)
	return ok || c.refuse(LevelBin, OverLookalikes, wait)
}

// unprovenPool charges the address's pool, or one beside it that is mostly idle.
func (c *call) unprovenPool() bool {
	own, other := &c.leaf.unknown, &c.leaf.known
	if c.dec.Class == Known {
		own, other = other, own
	}
	if take(own, c.cost, c.now) || takeAbove(other, borrowOther, c.cost, c.now) {
		return true
	}
	if c.pressure < borrowCalm && takeAbove(&c.leaf.proven, borrowProven, c.cost, c.now) {
		return true
	}
	return c.refuse(LevelAddress, OverAddress, waitFor(own, float64(c.cost), c.now))
}

// site charges the networks around the address, the narrowest first.
func (c *call) site() bool {
	around, b := sitesOf(c.addr), c.siteBudget()
	for i, n := range around.net[:around.n] {
		if !c.takeSite(n, b.of(around.size[i])) {
			return false
		}
	}
	return true
}

func (c *call) takeSite(n network, b siteBudget) bool {
	s, unlock := c.z.siteLocked(n, b, c.now)
	defer unlock.Unlock()
	pool, seconds, proven := &s.unproven, float64(unprovenSeconds), c.dec.Class.proven()
	if proven == 1 {
		pool, seconds = &s.proven, provenSeconds
	}
	perSecond := s.biggest[proven].atLeast(b.rate[proven], b.leaf[proven], c.since)
	retune(pool, perSecond, seconds*perSecond, c.now)
	if take(pool, c.cost, c.now) {
		return true
	}
	return c.refuse(LevelSite, OverSite, waitFor(pool, float64(c.cost), c.now))
}

// unprovenTotal charges what all unproven traffic shares. A part of it is kept
// for newcomers where proven people are, as many as these vouch for: thousands
// of addresses with nobody known at them cannot shut those out.
func (c *call) unprovenTotal() bool {
	own, other := &c.z.global.unknown, &c.z.global.known
	if c.dec.Class == Known {
		own, other = other, own
	}
	if takeAbove(own, vouchedReserve, c.cost, c.now) || takeAbove(other, borrowOther, c.cost, c.now) {
		return true
	}
	if take(&c.leaf.vouched, c.cost, c.now) && take(own, c.cost, c.now) {
		return true
	}
	return c.refuse(LevelUnproven, OverUnproven, waitFor(own, float64(c.cost), c.now))
}

// total charges what the origins can do, leaving some of it for better classes.
func (c *call) total() {
	least := reserve[c.dec.Class]
	switch {
	case c.r.Critical:
		least = 0
	case c.dec.Young:
		least = youngReserve
	}
	g := c.z.global
	if c.dec.Allowed = takeAbove(&g.total, least, c.cost, c.now) || c.r.Room; c.dec.Allowed {
		return
	}
	g.pinched[c.dec.Class.proven()].Store(true)
	need := float64(c.cost) + least*float64(g.total.Burst())
	c.refuse(LevelTotal, OverCapacity, waitFor(&g.total, need, c.now))
}

// lend lets what is over its budgets use what the others leave. Room that nobody
// waits for is not charged: whoever comes next and is within its budgets waits for
// the next one, which these here do not.
func (c *call) lend() {
	least := lendable[c.dec.Class]
	switch {
	case c.r.Critical:
		least = criticalLendable
	case c.dec.Class == Proven && c.dec.Level > LevelShare:
		least = crowdedLendable
	case c.dec.Young:
		least = youngLendable
	}
	if c.dec.Allowed = c.r.Room || takeAbove(&c.z.global.total, least, c.cost, c.now); c.dec.Allowed {
		if c.dec.Level == LevelShare {
			c.spendWithheld()
		}
		c.dec.Reason = Lent
	}
}

// settle remembers how it ended, for what comes.
func (c *call) settle() {
	c.dec.Offer = c.offer()
	if c.dec.Class >= Proven {
		return
	}
	c.z.bins.note(c.ownBin(), c.dec.Allowed && c.dec.Reason != Lent)
	c.z.global.unprovenAsked.Add(1)
	if c.dec.Level >= LevelUnproven {
		c.z.global.unprovenRefused.Add(1)
	}
	if !c.dec.Allowed {
		c.leaf.ports.refused(c.r.Port, c.now)
	}
}
