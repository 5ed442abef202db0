// SPDX-License-Identifier: Apache-2.0

// What an operator is told of a zone: counters, budgets, the worst offenders and
// the addresses that many people share.

package ratelimit

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Outcome is what metrics tell of a decision.
type Outcome uint8

const (
	Allowed Outcome = iota
	AllowedLent
	Refused
	// WouldRefuse is a refusal that a dry run lets pass.
	WouldRefuse
	outcomes
)

func (o Outcome) String() string {
	return [...]string{"allowed", "lent", "refused", "would_refuse", ""}[min(o, outcomes)]
}

// OutcomeOf tells what metrics tell of a decision.
func OutcomeOf(d *Decision, dryRun bool) Outcome {
	switch {
	case !d.Allowed && dryRun:
		return WouldRefuse
	case !d.Allowed:
		return Refused
	case d.Reason == Lent:
		return AllowedLent
	}
	return Allowed
}

// Count is how many decisions there were of a kind.
type Count struct {
	Class   Class
	Level   Level
	Outcome Outcome
	N       uint64
}

// Counts returns the kinds of which there were any: 128 at most, whatever comes.
func (z *Zone) Counts() []Count {
	var counts []Count
	for class := range classes {
		for level := range levels {
			for outcome := range outcomes {
				if n := z.counts[class][level][outcome].Load(); n > 0 {
					counts = append(counts, Count{class, level, outcome, n})
				}
			}
		}
	}
	return counts
}

// SharedAddress is an address that several people use.
type SharedAddress struct {
	Prefix netip.Prefix
	// Users is an estimate of the proven identities of the last five to ten
	// minutes, 5 % off at 256 and 11 % at 1024.
	Users float64
	// Proven, Known and Unknown are how full the address's pools are, 0 to 1.
	Proven, Known, Unknown float64
	// FairRate is what one identity is refilled with at present, per second.
	FairRate float64
}

// Offender is a network of which much was refused lately.
type Offender struct {
	Prefix netip.Prefix
	// Refused is at most so much too high as Error says. Each counts half as much
	// after offenderHalf.
	Refused, Error uint64
}

// Dominant is an address that nearly all traffic comes from.
type Dominant struct {
	Prefix netip.Prefix
	// Share of all requests of the ten seconds before Seen.
	Share float64
	Seen  time.Time
}

// Private tells that it is an address that no visitor from outside has: a proxy
// that is not trusted, most likely.
func (d Dominant) Private() bool {
	a := d.Prefix.Addr()
	// ::/64 is that of ::1, and of who comes over a unix socket and has no address.
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a == netip.IPv6Unspecified()
}

// Stats is a zone at one moment.
type Stats struct {
	// Capacity is what the origins can do as far as is known, and Total what may
	// be admitted, per second; Total is 0 while there is no limit.
	Capacity, Total float64
	// Rate is what was served lately, per second, or admitted if nobody tells.
	Rate      float64
	Shared    []SharedAddress
	Offenders []Offender
	// Dominant is nil if there is none.
	Dominant *Dominant
}

// Stats looks at the whole zone, with at most n entries of each list. It takes
// some milliseconds and holds up nobody for long.
func (z *Zone) Stats(n int, now time.Time) Stats {
	r := z.global.regime.Load()
	s := Stats{Capacity: r.capacity, Rate: z.global.rate(), Offenders: z.offenders.top(n, z.clock.since(now)), Dominant: z.Dominant(now)}
	if !math.IsInf(r.total, 1) {
		s.Total = r.total
	}
	s.Shared = z.shared(n, now)
	return s
}

func (g *global) rate() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flow
}

// shared lists the addresses with the most users.
func (z *Zone) shared(n int, now time.Time) []SharedAddress {
	var all []SharedAddress
	at := z.clock.at(now)
	z.leaves.each(func(net network, l *leaf) {
		if l.count >= 2 && at.Sub(l.ticked) < 2*userEpoch {
			all = append(all, l.describe(net, at))
		}
	})
	slices.SortFunc(all, func(a, b SharedAddress) int { return cmp.Compare(b.Users, a.Users) })
	return slices.Clip(all[:min(n, len(all))])
}

func (l *leaf) describe(net network, now time.Time) SharedAddress {
	return SharedAddress{
		Prefix: net.prefix(), Users: l.count, FairRate: l.fair,
		Proven:  max(0, fullness(&l.proven, now)),
		Known:   max(0, fullness(&l.known, now)),
		Unknown: max(0, fullness(&l.unknown, now)),
	}
}

// offenders counts refusals of the networks that have the most of them, by the
// Space-Saving algorithm: a new network takes over the lowest count, so that no
// big one is missed.
type offenders struct {
	mu     sync.Mutex
	list   []offender
	at     map[network]int
	halved time.Duration // when they were, on the zone's clock
}

type offender struct {
	net            network
	refused, error uint64
	lately         uint64 // since the last call of worstLately
}

const maxOffenders = 128

// offenderHalf is how slowly refusals are forgotten: who is listed is one of today.
const offenderHalf = 5 * time.Minute

// note counts a refusal. Nobody waits for it: while there are that many at once,
// some are left out.
func (o *offenders) note(n network, t time.Duration) {
	if !o.mu.TryLock() {
		return
	}
	defer o.mu.Unlock()
	o.forgetLocked(t)
	if i, ok := o.at[n]; ok {
		o.list[i].refused++
		o.list[i].lately++
		return
	}
	if o.at == nil {
		o.at = make(map[network]int, maxOffenders)
	}
	i := o.placeLocked()
	o.list[i].net, o.at[n] = n, i
	o.list[i].refused++
	o.list[i].lately = 1
}

// forgetLocked halves the counts for each half-life that has passed.
func (o *offenders) forgetLocked(t time.Duration) {
	halves := int((t - o.halved) / offenderHalf)
	if halves <= 0 {
		return
	}
	o.halved += time.Duration(halves) * offenderHalf
	for i := range o.list {
		o.list[i].refused >>= min(halves, 63)
		o.list[i].error >>= min(halves, 63)
	}
}

// placeLocked is a free place, or the one with the lowest count.
func (o *offenders) placeLocked() int {
	if len(o.list) < maxOffenders {
		o.list = append(o.list, offender{})
		return len(o.list) - 1
	}
	least := 0
	for i := range o.list {
		if o.list[i].refused < o.list[least].refused {
			least = i
		}
	}
	delete(o.at, o.list[least].net)
	o.list[least].error = o.list[least].refused
	return least
}

// top lists the worst.
func (o *offenders) top(n int, t time.Duration) []Offender {
	o.mu.Lock()
	o.forgetLocked(t)
	list := slices.Clone(o.list)
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b offender) int { return cmp.Compare(b.refused, a.refused) })
	var top []Offender
	for _, e := range list[:min(n, len(list))] {
		if e.refused == 0 {
			break
		}
		top = append(top, Offender{e.net.prefix(), e.refused, e.error})
	}
	return top
}

// WorstLately is the network of which most was refused since the last call; ok is
// false if there is none.
func (z *Zone) WorstLately() (worst netip.Prefix, ok bool) { return z.offenders.worstLately() }

func (o *offenders) worstLately() (worst netip.Prefix, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	most := uint64(0)
	for i := range o.list {
		if e := &o.list[i]; e.lately > most {
			most, worst, ok = e.lately, e.net.prefix(), true
		}
		o.list[i].lately = 0
	}
	return worst, ok
}

// tally is how much of a zone's traffic comes from one address.
type tally struct {
	requests int64
	since    time.Time
	before   int64 // the zone's requests at that time
}

const (
	tallyTime = 10 * time.Second
	// dominantShare and dominantRequests are nearly all of something that matters.
	dominantShare    = 0.95
	dominantRequests = 100
)

// watchDominant sees whether an address has nearly all traffic.
func (z *Zone) watchDominant(c *call) {
	s := &c.leaf.seen
	if c.now.Sub(s.since) < tallyTime {
		return
	}
	asked := z.global.asked.Load()
	share := float64(s.requests) / float64(max(1, asked-s.before))
	if !s.since.IsZero() && s.requests >= dominantRequests && share >= dominantShare {
		z.dominant.Store(&Dominant{c.net.prefix(), min(1, share), c.now})
	}
	*s = tally{since: c.now, before: asked}
}

// Dominant is the address that nearly all traffic comes from; nil if there is none,
// or it was one long ago.
func (z *Zone) Dominant(now time.Time) *Dominant {
	if d := z.dominant.Load(); d != nil && z.clock.at(now).Sub(d.Seen) < time.Minute {
		return d
	}
	return nil
}
