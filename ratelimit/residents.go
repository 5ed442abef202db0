// SPDX-License-Identifier: Apache-2.0

// What the tables of identities and of networks hold.

package ratelimit

import (
	"time"

	"golang.org/x/time/rate"
)

// identity is one client's bucket. Only proven and verified ones have any, so
// that a flood of cookies displaces nobody.
type identity struct {
	lim   rate.Limiter
	homes homes // where it is proven
	// withheld is what the bucket would hold more if its address had been short of
	// nothing, in units, as of used.
	withheld float64
	used     time.Duration
}

// identityKey keeps the names of users apart from numbers of tokens.
type identityKey struct {
	hash uint64
	user bool
}

func (i *identity) headroom(now time.Time) float64 { return fullness(&i.lim, now) }

func (i *identity) begin(from origin, rate, burst float64) {
	if from == fresh {
		fill(&i.lim, rate, burst)
	}
	i.homes, i.withheld = homes{}, 0
}

// withhold brings up to date what the address's shortage keeps from the identity,
// before its bucket is retuned.
func (i *identity) withhold(perSecond, burst float64, since time.Duration, now time.Time) {
	if dt := (since - i.used).Seconds(); dt > 0 {
		i.withheld += max(0, perSecond*unit-float64(i.lim.Limit())) * dt
	}
	i.used = since
	i.withheld = max(0, min(i.withheld, burst*unit-i.lim.TokensAt(now)))
}

// site is a network of many addresses: what it may use, and how many of its
// identities may be proven. Whoever has a /48 has 65536 addresses' pools.
type site struct {
	proven, unproven rate.Limiter
	promote          rate.Limiter
	// biggest are the highest rates of an address there, for the unproven and the proven.
	biggest [2]biggest
}

// siteBudget is what a policy gives a site, per second, and what the address that asks
// has: rates for the unproven and for the proven.
type siteBudget struct {
	rate, leaf [2]float64
	promotions float64
}

// of a site of this size, from what it would be for one address.
func (b siteBudget) of(size siteSize) siteBudget {
	b.rate[0] *= size.pools
	b.rate[1] *= size.pools
	b.promotions = size.promotions
	return b
}

// biggest is the highest rate of an address in a site, as of a time.
type biggest struct {
	rate float64
	at   time.Duration
}

// biggestMemory is how long a site has room for its biggest address after that asked
// last: people there ask every 30 s.
const biggestMemory = time.Minute

// atLeast is the rate of a site that has room for each of its addresses alone. A small one
// must not make it too small for a big one.
func (g *biggest) atLeast(rate, leaf float64, since time.Duration) float64 {
	if leaf >= g.rate || since-g.at > biggestMemory {
		*g = biggest{leaf, since}
	}
	return max(rate, g.rate)
}

func (s *site) headroom(now time.Time) float64 {
	return min(fullness(&s.proven, now), fullness(&s.unproven, now))
}

func (s *site) begin(from origin, b siteBudget, now time.Time) {
	s.biggest = [2]biggest{}
	if from == fresh {
		unproven, proven := max(b.rate[0], b.leaf[0]), max(b.rate[1], b.leaf[1])
		fill(&s.proven, proven, provenSeconds*proven)
		fill(&s.unproven, unproven, unprovenSeconds*unproven)
		fill(&s.promote, b.promotions*promoteRate, b.promotions*promoteBurst)
	}
	retune(&s.promote, b.promotions*promoteRate, b.promotions*promoteBurst, now) // it may have been another's
}
