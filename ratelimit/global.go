// SPDX-License-Identifier: Apache-2.0

// What all traffic shares: how much the origins can do, as far as is known, and
// how much of it is given out under pressure.

package ratelimit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// global is a zone's widest level.
type global struct {
	total          rate.Limiter
	known, unknown rate.Limiter // what is unproven
	promote        rate.Limiter

	regime   atomic.Pointer[regime]
	admitted atomic.Int64 // units
	served   atomic.Int64 // units; as long as it is 0 and told is not set, nobody tells
	cheap    atomic.Int64 // units of those served
	asked    atomic.Int64 // requests
	next     atomic.Int64 // when the next tick is due, nanoseconds of the zone's clock
	// Unproven requests, and those of them refused for the sake of all.
	unprovenAsked, unprovenRefused atomic.Int64

	// pressed is the highest pressure that anybody has reported since the last tick,
	// as bits of a float64, whose order is theirs: those who share a zone may have
	// different origins.
	pressed atomic.Uint64
	// pinched tells of the unproven and of the proven that a request within its
	// address's share was refused.
	pinched [2]atomic.Bool

	mu   sync.Mutex // serialises ticks
	last time.Duration
	done int64   // served, or admitted, at the last tick
	told bool    // done is what was served, not what was admitted
	flow float64 // the same per second
	// cheapDone and cheapFlow are the part of those that says nothing.
	cheapDone int64
	cheapFlow float64
	peak      float64 // the most of the rest without pressure

	askedBefore, refusedBefore int64
	crowded                    float64 // share of unproven requests refused for all's sake
}

// regime is what the last tick found.
type regime struct {
	// capacity is what the origins can do, per second.
	capacity float64
	// total is what may be admitted, per second; +Inf: all.
	total float64
	// share scales the budgets of addresses in Auto, for the unproven and for the
	// proven. A crowd of those must not make these smaller: they come first.
	share [2]float64
}

// proven is 1 for the classes that have proven who they are.
func (c Class) proven() int {
	if c >= Proven {
		return 1
	}
	return 0
}

const (
	globalTick = 100 * time.Millisecond
	// flowRise and flowFall smooth what is served: a dip in what is asked for is
	// not one in what can be done. peakMemory is how slowly it is forgotten what
	// the origins once did, and peakRise how slowly it is learned: a moment's burst may
	// have waited in queues.
	flowRise, flowFall, peakRise, peakMemory = 500 * time.Millisecond, 4 * time.Second, 10 * time.Second, time.Hour
	// peakFall is how fast it is forgotten while there is much pressure: what is served
	// then shows what can be done, and what was cheap in calm times does not.
	peakFall = 30 * time.Second
	// calm is the pressure below which what is admitted shows what can be done.
	calm = 0.1
	// The total is as many times what is served: more under slight pressure, so
	// that it is found out what can be done, less under much, so that queues
	// get shorter, and without pressure there is no limit.
	totalMost, totalFall, totalSlack = 1.15, 0.25, 0.005
	// totalSeconds of the total are the most that come at once.
	totalSeconds = 1
	leastTotal   = 1
	// slight is the pressure up to which a part of what the origins once did is
	// admitted, whatever is being served: after a quiet time that says nothing.
	slight = 0.2
)

func newGlobal() *global {
	g := &global{peak: capacityFloor}
	fill(&g.promote, globalPromoteRate, globalPromoteBurst)
	for _, l := range []*rate.Limiter{&g.total, &g.known, &g.unknown} {
		fill(l, capacityFloor, capacityFloor)
	}
	g.regime.Store(&regime{capacity: capacityFloor, total: math.Inf(1), share: [2]float64{1, 1}})
	return g
}

// press takes note of a pressure.
func (g *global) press(p float64) {
	bits := math.Float64bits(p)
	for old := g.pressed.Load(); bits > old; old = g.pressed.Load() {
		if g.pressed.CompareAndSwap(old, bits) {
			return
		}
	}
}

// tick learns and sets the limits; who comes too late for it does not wait.
func (g *global) tick(p *Policy, t time.Duration, now time.Time) {
	if int64(t) < g.next.Load() || !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	if int64(t) < g.next.Load() {
		return
	}
	g.next.Store(int64(t + globalTick))
	pressure := math.Float64frombits(g.pressed.Swap(0))
	g.learnLocked(pressure, t)
	old := g.regime.Load()
	next := regime{capacity: p.Capacity}
	for i := range next.share {
		next.share[i] = g.shareLocked(i, old.share[i], now)
	}
	if next.capacity == 0 {
		next.capacity = g.peak
	}
	g.crowdLocked(now)
	next.total = totalAt(g.flow, next.capacity, pressure)
	g.limitLocked(p, next, pressure, now)
	if next != *old {
		g.regime.Store(&next)
	}
}

// learnLocked follows what is admitted. What was admitted without pressure can
// be done.
func (g *global) learnLocked(pressure float64, t time.Duration) {
	dt := (t - g.last).Seconds()
	if dt <= 0 {
		return
	}
	g.followLocked(dt)
	g.peak = max(capacityFloor, g.peak*math.Exp(-dt/peakMemory.Seconds()))
	if more := g.flow - g.cheapFlow - g.peak; pressure < calm && more > 0 {
		g.peak += more * (1 - math.Exp(-dt/peakRise.Seconds()))
	}
	if less := g.peak - g.flow; pressure > slight && less > 0 {
		g.peak = max(capacityFloor, g.peak-less*(1-math.Exp(-dt/peakFall.Seconds())))
	}
	g.last = t
}

// followLocked updates what is served per second; if nobody tells, what is
// admitted.
func (g *global) followLocked(dt float64) {
	done := g.served.Load()
	switch {
	case g.told:
	case done > 0:
		g.told, g.done, g.cheapDone = true, done, g.cheap.Load()
		return
	default:
		done = g.admitted.Load()
	}
	perSecond, memory := float64(done-g.done)/unit/dt, flowFall
	if perSecond > g.flow {
		memory = flowRise
	}
	g.flow += (perSecond - g.flow) * (1 - math.Exp(-dt/memory.Seconds()))
	cheap := g.cheap.Load()
	g.cheapFlow += (float64(cheap-g.cheapDone)/unit/dt - g.cheapFlow) * (1 - math.Exp(-dt/memory.Seconds()))
	g.done, g.cheapDone = done, cheap
}

// crowdLocked makes promotions scarce while unproven traffic is refused for the
// sake of all: then most of it is a distributed attack, which must not become
// proven by trying often.
func (g *global) crowdLocked(now time.Time) {
	asked, refused := g.unprovenAsked.Load(), g.unprovenRefused.Load()
	share := float64(refused-g.refusedBefore) / float64(max(1, asked-g.askedBefore))
	g.crowded += (share - g.crowded) * crowdWeight
	g.askedBefore, g.refusedBefore = asked, refused
	free := 1 - min(1, g.crowded)
	retune(&g.promote, globalPromoteRate*max(crowdLeast, free*free*free*free), globalPromoteBurst, now)
}

// crowdWeight of a tick's share makes an average over some two seconds, and
// crowdLeast is what is left of promotions in any crowd.
const crowdWeight, crowdLeast = 0.05, 0.02

// totalAt is what may be admitted under this pressure: about what is being
// served. It is not a share of a capacity, for that would leave origins idle
// until the pressure has faded.
func totalAt(flow, capacity, pressure float64) float64 {
	if pressure == 0 {
		return math.Inf(1)
	}
	factor := totalMost - totalFall*pressure + totalSlack/pressure
	return max(leastTotal, flow*factor, capacity*max(leastShare, 1-pressure/slight))
}

// shareLocked adapts how much of the total an address may take before others
// that have taken less.
func (g *global) shareLocked(proven int, share float64, now time.Time) float64 {
	switch {
	case g.pinched[proven].Swap(false):
		return max(0.001, 0.9*share)
	case fullness(&g.total, now) > 0.5:
		return min(1, 1.02*share+0.001)
	}
	return share
}

// limitLocked sets the buckets. A capacity that was only learned binds nobody
// without pressure: it is what was asked for, not what could be done.
func (g *global) limitLocked(p *Policy, r regime, pressure float64, now time.Time) {
	full := fullness(&g.total, now)
	retuneOrFree(&g.total, r.total, totalSeconds, now)
	if missing := full - fullness(&g.total, now); missing > 0 {
		// It stays as full as it was: a total that goes up and down with what is
		// served would lose a part each time, and origins would be idle.
		give(&g.total, missing*float64(g.total.Burst())/unit, now)
	}
	unproven := unprovenShare * r.total
	switch {
	case p.Auto: // classes leave enough of the total for better ones
		unproven = math.Inf(1)
	case p.Capacity > 0:
		unproven = unprovenShare * p.Capacity * max(leastShare, 1-pressure)
	}
	retuneOrFree(&g.known, knownPart*unproven, unprovenSeconds, now)
	retuneOrFree(&g.unknown, (1-knownPart)*unproven, unprovenSeconds, now)
}

// retuneOrFree lifts the limit if it is infinite.
func retuneOrFree(l *rate.Limiter, perSecond, seconds float64, now time.Time) {
	if !math.IsInf(perSecond, 1) {
		retune(l, perSecond, seconds*perSecond, now)
	} else if l.Limit() != rate.Inf {
		l.SetLimitAt(now, rate.Inf)
	}
}

// reserve is what each class leaves of the total for better ones: traffic is
// shed in the order of classes. lendable is what it leaves for those who are
// within their own budgets, if it is over its.
var (
	reserve  = [classes]float64{Unknown: 0.4, Known: 0.25, Proven: 0.05, Verified: 0}
	lendable = [classes]float64{Unknown: 0.8, Known: 0.7, Proven: 0.55, Verified: 0.5}
)

// Young identities come after the other proven ones. Critical requests that are
// over a budget leave something for those that are not.
// Proven clients that have not had their part yet, but whose addresses are over
// their budgets, come before the unproven that are within theirs: otherwise a botnet
// whose addresses each ask for little would come before an office.
const youngReserve, youngLendable, criticalLendable, crowdedLendable = 0.15, 0.6, 0.1, 0.2
