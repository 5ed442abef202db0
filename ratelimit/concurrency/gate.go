// SPDX-License-Identifier: Apache-2.0

// The gate: who may pass to the origins of a site, who waits, and who is refused.

package concurrency

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Mode is what is done with the limits.
type Mode uint8

// Modes. Auto is what a configuration has that says nothing.
const (
	// Auto enforces an origin's limit only while there is evidence of overload.
	Auto Mode = iota
	// Observe refuses nothing and tells what it would have refused.
	Observe
	// Enforce always enforces.
	Enforce
)

// Engages is the pressure of this host from which on limits are enforced without
// other evidence: from there on it is told. A little pressure is ordinary.
const Engages = 0.3

// LongestQueue is the longest that a request may wait for a place.
const LongestQueue = 100 * time.Millisecond

// Policy is what a configuration says about overload.
type Policy struct {
	Mode Mode
	// Queue is how long a request may wait for a place, at most LongestQueue.
	// 0: it never waits.
	Queue time.Duration
	// Reserve keeps some places for critical requests: 5 % of them, two at least.
	Reserve bool
}

// Validate tells what is wrong with a policy.
func (p Policy) Validate() error {
	if p.Mode > Enforce {
		return fmt.Errorf("unknown mode %d", p.Mode)
	}
	if p.Queue < 0 || p.Queue > LongestQueue {
		return fmt.Errorf("a queue of %v: must be from 0 to %v", p.Queue, LongestQueue)
	}
	return nil
}

// Request is what a Gate must know of a request.
type Request struct {
	Class Class
	// Client is a hash of who asks.
	Client uint64
}

// Reason is why a request was refused.
type Reason uint8

// Reasons.
const (
	NotRefused Reason = iota
	Shed              // pressure; the lower classes go first
	QueueFull         // all origins are full, and as many wait as may
	WaitedLong        // all origins were full for as long as a request may wait
	Gone              // the request's context ended while it waited
)

// String is the reason's name in logs and metrics.
func (r Reason) String() string {
	return [...]string{"", "shed", "queue_full", "queue_timeout", "client_gone"}[min(r, Gone)]
}

// Ticket lets a request pass. Use it when its first attempt has taken a place, or
// when there was none; more than once does no harm.
type Ticket struct {
	gate *Gate
	// Would is why the request would have been refused; only in mode Observe.
	Would Reason
	// Queued tells that the request had to wait.
	Queued bool
}

// Use ends the ticket.
func (t *Ticket) Use() {
	if t.gate != nil {
		g := t.gate
		t.gate = nil
		g.pending.Add(-1)
		g.Wake()
	}
}

// slots is what a gate must know of an origin.
type slots interface {
	Room(Class) int
	Spare() int
	Limit() int
	Engaged() bool
	Press()
	join(*Gate)
	leave(*Gate)
}

// Gate decides for one site. Its places are those of its origins together. Close
// it when the configuration ends. Methods may be called from several goroutines.
type Gate struct {
	policy   Policy
	origins  atomic.Pointer[[]slots] // replaced, never changed
	pending  atomic.Int64            // tickets that are out: their places are not yet taken
	pressure atomic.Uint64           // as bits of a float64
	waiting  atomic.Int32            // the highest class in the queue, as index; -1: nobody

	mu    sync.Mutex // guards the rest, and the replacing of origins
	queue queue
	order order
}

// NewGate returns a gate without origins, which lets everything pass. policy must
// be valid.
func NewGate(policy Policy) *Gate {
	g := &Gate{policy: policy}
	g.origins.Store(&[]slots{})
	g.waiting.Store(-1)
	return g
}

// Sync makes these the gate's origins.
func (g *Gate) Sync(limiters []*Limiter) {
	list := make([]slots, len(limiters))
	for i, l := range limiters {
		list[i] = l
	}
	g.sync(list)
}

func (g *Gate) sync(list []slots) {
	g.mu.Lock()
	old := *g.origins.Swap(&list)
	g.mu.Unlock()
	for _, s := range old {
		s.leave(g)
	}
	for _, s := range list {
		s.join(g)
	}
	g.Wake()
}

// Close gives the origins up. Who waits may pass.
func (g *Gate) Close() { g.sync(nil) }

// SetPressure says how short this host or the origins are of something: 0 is not
// at all, 1 completely. Pressure is evidence of overload from Engages on.
func (g *Gate) SetPressure(p float64) { g.pressure.Store(math.Float64bits(p)) }

// Pressure is what SetPressure said last.
func (g *Gate) Pressure() float64 { return math.Float64frombits(g.pressure.Load()) }

// Queued is how many requests wait.
func (g *Gate) Queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.length
}

// Keeps tells that this origin, a *Limiter, has no room for a request of this
// class, for those who choose.
func (g *Gate) Keeps(s slots, class Class) bool {
	return g.room(s, class) <= 0
}

// room is how many more requests of this class the origin gets; math.MaxInt where
// nothing limits them.
func (g *Gate) room(s slots, class Class) int {
	if g.enforces(s) {
		return s.Room(class)
	}
	return s.Spare()
}

// Free tells that all requests of this class would pass at once. It is for those
// who share out what is short: as long as it is free, nothing is.
func (g *Gate) Free(class Class) bool {
	if g.policy.Mode == Observe {
		return true
	}
	return g.Pressure() <= shedFrom[class.index()] && class.index() > int(g.waiting.Load()) && g.hasRoom(class)
}

// Admit lets a request pass, at once or after it has waited, or refuses it. It
// fails open: without origins all pass.
func (g *Gate) Admit(ctx context.Context, r Request, now time.Time) (Ticket, Reason) {
	reason := NotRefused
	if Sheds(r.Class, r.Client, g.Pressure(), now) {
		reason = Shed
	} else if r.Class.index() <= int(g.waiting.Load()) || !g.hasRoom(r.Class) {
		reason = QueueFull
	}
	switch {
	case reason == NotRefused || g.policy.Mode == Observe:
		g.pending.Add(1)
		return Ticket{gate: g, Would: reason}, NotRefused
	case reason == Shed || g.policy.Queue == 0:
		return Ticket{}, reason
	}
	return g.wait(ctx, r.Class)
}

// RetryAfter is what a refused client is told to wait: one to three seconds, or
// five to ten if it was shed, as pressure falls slowly. It is not the same for all,
// or they would all come back together.
func RetryAfter(r Reason) time.Duration {
	if r == Shed {
		return time.Duration(5+rand.IntN(6)) * time.Second
	}
	return time.Duration(1+rand.IntN(3)) * time.Second
}

func (g *Gate) enforces(s slots) bool {
	return g.policy.Mode == Enforce || s.Engaged() || g.Pressure() >= Engages
}

// Enforces tells that an origin's limit keeps requests away at present.
func (g *Gate) Enforces(l *Limiter) bool { return g.policy.Mode != Observe && g.enforces(l) }

// hasRoom tells whether a request of this class may pass. It looks at no more
// origins than it must, which are few unless most are full.
func (g *Gate) hasRoom(class Class) bool {
	list := *g.origins.Load()
	need := int(g.pending.Load()) + 1
	room, limit := 0, 0
	for _, s := range list {
		n := g.room(s, class)
		if n == math.MaxInt {
			return true
		}
		room += max(0, n)
		limit += s.Limit()
		if room >= need+g.reserve(class, limit) {
			return true
		}
	}
	if g.policy.Mode != Observe {
		for _, s := range list {
			s.Press()
		}
	}
	return len(list) == 0
}

// reserve is how many of the places are not for this class.
func (g *Gate) reserve(class Class, limit int) int {
	if !g.policy.Reserve || class >= Critical {
		return 0
	}
	return min(max(2, limit/20), limit/4) // a probe leaves less than half
}

// Wake lets as many pass as there is room for. Limiters call it when a place
// becomes free.
func (g *Gate) Wake() {
	if g.waiting.Load() < 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeLocked()
}

func (g *Gate) wakeLocked() {
	for w := g.queue.first(); w != nil && g.hasRoom(w.class); w = g.queue.first() {
		g.queue.remove(w)
		g.pending.Add(1)
		w.ready <- answer{w, true}
	}
	g.noteLocked()
}

// noteLocked keeps the highest waiting class.
func (g *Gate) noteLocked() {
	highest := -1
	if w := g.queue.first(); w != nil {
		highest = w.class.index()
	}
	if int32(highest) != g.waiting.Load() {
		g.waiting.Store(int32(highest))
	}
}
