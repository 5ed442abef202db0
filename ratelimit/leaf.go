// SPDX-License-Identifier: Apache-2.0

// One address: its pools, how many people use it, and each one's fair share.

package ratelimit

import (
	"math"
	"math/bits"
	"time"

	"golang.org/x/time/rate"
)

// leaf is an IPv4 address or a /64 of IPv6. It is guarded by its set's lock.
type leaf struct {
	proven, known, unknown rate.Limiter // pools
	promote, roam          rate.Limiter // credits for tokens
	vouched                rate.Limiter // what proven people vouch for

	users   users
	slow    float64 // users as of the last hour
	count   float64 // users now
	greeted float64 // users that have brought what they add to the proven pool
	ticked  time.Time
	fair    float64 // fair rate of a proven identity
	short   bool    // the proven pool refused somebody since the last tick
	binCost [2]int  // what a request costs in a bin of known and of unknown
	ports   portWatch
	seen    tally
}

// leafTick is how often a leaf's rates are computed anew.
const leafTick = 250 * time.Millisecond

const (
	// fairFloor is a reader's average: sharing more fairly than this would
	// refuse ordinary readers.
	fairFloor = 0.5
	// fairCut and fairGrowth make the fair rate fall within a second and rise
	// within ten. It falls as soon as less than fairFrom is left of the pool: when
	// somebody is refused it is too late, for who asks too much is known only after
	// a while at that rate.
	fairCut, fairGrowth, fairFrom = 0.5, 1.05, 0.75
	// provenSeconds and unprovenSeconds are how long a pool lasts that nobody
	// fills: pages come in bursts.
	provenSeconds, unprovenSeconds = 3, 4
	// The bins of an address's pools. A newcomer shares that of an abuser's token
	// with a chance of 1 in 256; looks are fewer than tokens.
	knownBins, unknownBins = 256, 64
	// busyBins at once use up the pool.
	busyBins = 8
	// binBurst is the least that a bin holds: a page's first requests.
	binBurst = 10
)

// Promotion credits: per second and at most. Sites have some times an address's.
const (
	promoteRate, promoteBurst             = 1, 50
	globalPromoteRate, globalPromoteBurst = 100, 100
	roamRate, roamBurst                   = 1, 50
)

// headroom is 1 for an address that nobody has used lately. One with several
// known users is worth half a bucket more than others.
func (l *leaf) headroom(now time.Time) float64 {
	room := min(fullness(&l.proven, now), fullness(&l.known, now), fullness(&l.unknown, now))
	if l.count > 8 && now.Sub(l.ticked) < 2*userEpoch {
		room -= 0.5
	}
	return room
}

// begin makes a slot this address's. What it inherited stays in debt.
func (l *leaf) begin(from origin, b leafBudget, now time.Time) {
	if from == fresh {
		fill(&l.proven, b.proven, provenSeconds*b.proven)
		fill(&l.known, knownPart*b.unproven, unprovenSeconds*knownPart*b.unproven)
		fill(&l.unknown, (1-knownPart)*b.unproven, unprovenSeconds*(1-knownPart)*b.unproven)
		fill(&l.promote, promoteRate, promoteBurst)
		fill(&l.roam, roamRate, roamBurst)
		fill(&l.vouched, b.vouched, unprovenSeconds*b.vouched)
	}
	l.users, l.slow, l.count, l.greeted = users{}, 0, 0, 0
	l.fair, l.short = b.client, false
	l.ports, l.seen, l.ticked = portWatch{}, tally{}, now
	l.tune(b, now)
}

// leafBudget is what a policy gives an address, per second.
type leafBudget struct {
	proven, unproven, client float64
	// vouched is the part of unproven that its users vouch for: where people are
	// known to be, newcomers are people.
	vouched float64
}

// tune sets the pools' rates. They hold what they held.
func (l *leaf) tune(b leafBudget, now time.Time) {
	known, unknown := knownPart*b.unproven, (1-knownPart)*b.unproven
	retune(&l.proven, b.proven, provenSeconds*b.proven, now)
	retune(&l.known, known, unprovenSeconds*known, now)
	retune(&l.unknown, unknown, unprovenSeconds*unknown, now)
	retune(&l.vouched, b.vouched, unprovenSeconds*b.vouched, now)
	l.binCost = [2]int{binCost(known), binCost(unknown)}
}

// binCost is what a request costs in a bin: all bins are refilled alike, so that
// addresses with different budgets can share them.
func binCost(pool float64) int {
	perBin := pool / busyBins
	return int(min(binRate/perBin, binRate*unprovenSeconds/binBurst))
}

// adapt moves the fair rate of an identity, by what happened since the last tick.
// It never falls below an equal part of the pool: that there is for everybody.
func (l *leaf) adapt(client, pool float64, now time.Time) {
	switch {
	case l.short, fullness(&l.proven, now) < fairFrom:
		floor := max(fairFloor, pool/max(1, l.count))
		l.fair = max(min(floor, client), fairCut*l.fair)
	default:
		l.fair = min(client, fairGrowth*l.fair+0.05)
	}
	l.fair = min(l.fair, client)
	l.short = false
}

// recount estimates the users anew.
func (l *leaf) recount(epoch int64, dt time.Duration) {
	l.users.advance(epoch)
	l.count = l.users.count()
	l.slow += (l.count - l.slow) * (1 - math.Exp(-dt.Seconds()/slowUsers.Seconds()))
}

// welcome lets each user who is counted anew bring what it adds to the proven
// pool at once, as if it had always been there. Otherwise those who come back
// together, after a restart or a break, would find the pool of an empty address.
// Nobody brings it twice in an epoch.
func (l *leaf) welcome(each float64, now time.Time) {
	if l.count > l.greeted {
		give(&l.proven, (l.count-l.greeted)*each, now)
	}
	l.greeted = l.count
}

// believed is how many users are counted on: under pressure only as many as
// twice those of the last hour.
func (l *leaf) believed(prior, pressure float64) float64 {
	count := max(l.count, prior)
	return (1-pressure)*count + pressure*min(count, max(2*l.slow+8, prior))
}

// portWatch finds out whether refusals come from few blocks of ports. Carriers
// give each customer blocks of its own, so then ports tell customers apart; a
// client cannot choose ports outside its blocks.
type portWatch struct {
	blocks   [2]uint64 // of 512 ports
	refusals uint8
	narrow   bool
	until    time.Time
}

const (
	// portSample refusals from random ports touch some 80 of 128 blocks.
	portSample = 128
	// portBlocks is clearly fewer: a customer has up to eight blocks of 128
	// ports, and others are refused meanwhile too.
	portBlocks = 32
	// portMemory is how long ports count after the last such sample.
	portMemory = time.Minute
)

// refused takes note of a refusal of unproven traffic from a port.
func (w *portWatch) refused(port uint16, now time.Time) {
	if port == 0 {
		return
	}
	w.blocks[port>>15] |= 1 << (port >> 9 % 64)
	if w.refusals++; w.refusals < portSample {
		return
	}
	touched := bits.OnesCount64(w.blocks[0]) + bits.OnesCount64(w.blocks[1])
	*w = portWatch{narrow: touched <= portBlocks, until: now.Add(portMemory)}
}

// tells says whether ports tell customers apart at present.
func (w *portWatch) tells(port uint16, now time.Time) bool {
	return w.narrow && port != 0 && now.Before(w.until)
}
