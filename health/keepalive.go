// SPDX-License-Identifier: Apache-2.0

// KeepAlive learns for how long connections to an origin can be idle.

package health

import (
	"sync"
	"sync/atomic"
	"time"
)

// KeepAlive knows from failures and successes for how long an idle connection to
// an origin can still be used. The origin itself may close it, or a firewall on
// the way forget it; nobody says so before the next request is lost.
//
// It errs on the side of new connections: a limit that is too low costs a dial,
// one that is too high costs a request. The zero value knows of no limit. Methods
// may be called from several goroutines; as long as there is no limit, asking
// costs one atomic load.
type KeepAlive struct {
	bound      atomic.Int64 // the limit + 1, in nanoseconds; 0: none is known
	survived   atomic.Int64 // the longest that was survived lately, in nanoseconds
	survivedAt atomic.Int64 // when, in Unix nanoseconds

	mu      sync.Mutex
	dead    time.Duration // the shortest that was too long
	failed  time.Time     // when the last failure came
	bursts  int
	burst   time.Time     // when the latest burst of failures began
	longest time.Duration // the longest idle time in it
	before  time.Duration // the shortest of the bursts before it; 0: none
}

const (
	// oneBurst is what belongs together: a process that ends takes all its
	// connections along, however long they were idle.
	oneBurst = 100 * time.Millisecond
	// burstsToLearn is how many such events are no coincidence any more.
	burstsToLearn = 2
	// survivalCounts is for how long a success contradicts later failures.
	survivalCounts = time.Minute
	// leastIdle is the shortest limit; below it connections are not reused.
	leastIdle = 25 * time.Millisecond
	// relaxAfter is how long after the last failure the limit doubles for
	// requests that lose nothing, so that an origin that has changed is noticed.
	relaxAfter = 10 * time.Minute
	// mostRelaxed is how often it doubles.
	mostRelaxed = 6
	// coincidence is how far apart failures have nothing to do with each other.
	coincidence = time.Hour
	// forgetLimit is how long after the last failure there is no limit any more,
	// for those who never find out that it has changed: sites with nothing but
	// POSTs.
	forgetLimit = 24 * time.Hour
)

// Limit is how long a connection may be idle, and whether there is a limit.
func (k *KeepAlive) Limit(now time.Time) (time.Duration, bool) {
	if k.bound.Load() == 0 {
		return 0, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetLocked(now)
	b := k.bound.Load()
	return time.Duration(max(0, b-1)), b != 0
}

// Reusable tells whether a request can be sent on a connection that was idle for
// so long. A daring one loses nothing if it cannot, and finds out.
func (k *KeepAlive) Reusable(idle time.Duration, daring bool, now time.Time) bool {
	if k.bound.Load() == 0 {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetLocked(now)
	b := k.bound.Load()
	limit := time.Duration(b - 1)
	if doubled := k.relaxedLocked(now); daring && doubled > 0 {
		limit = max(limit, leastIdle) << doubled
	}
	return b == 0 || idle < limit
}

// relaxedLocked is how often the limit has doubled.
func (k *KeepAlive) relaxedLocked(now time.Time) int {
	return int(min(mostRelaxed, max(0, now.Sub(k.failed)/relaxAfter)))
}

func (k *KeepAlive) forgetLocked(now time.Time) {
	if k.bound.Load() != 0 && now.Sub(k.failed) >= forgetLimit {
		k.bound.Store(0)
		k.bursts, k.before = 0, 0
	}
}

// Survived notes that a connection could be used after having been idle.
func (k *KeepAlive) Survived(idle time.Duration, now time.Time) {
	at := now.UnixNano()
	if int64(idle) >= k.survived.Load() || at-k.survivedAt.Load() > int64(survivalCounts) {
		k.survived.Store(int64(idle))
		k.survivedAt.Store(at)
	}
	if b := k.bound.Load(); b == 0 || int64(idle) < b {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// It has changed, or was never so: what is proven now counts.
	k.dead = max(k.dead, 2*idle)
	k.bound.Store(int64(careful(idle)) + 1)
}

// careful is a tenth less than what is proven.
func careful(idle time.Duration) time.Duration { return idle - idle/10 }

// Failed notes that a connection was lost after having been idle, and tells
// whether a limit follows from that where none was known.
func (k *KeepAlive) Failed(idle time.Duration, now time.Time) (learned bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetLocked(now)
	alive := time.Duration(k.survived.Load())
	if now.UnixNano()-k.survivedAt.Load() > int64(survivalCounts) {
		alive = 0
	}
	if alive >= idle {
		return false // others were idle for longer: that was not why
	}
	k.countLocked(idle, now)
	if k.bursts < burstsToLearn {
		return false
	}
	k.dead = k.longest
	if k.before > 0 {
		k.dead = min(k.dead, k.before)
	}
	limit := max(careful(alive), k.dead/2)
	if limit < leastIdle {
		limit = 0
	}
	learned = k.bound.Load() == 0
	k.bound.Store(int64(limit) + 1)
	return learned
}

// countLocked takes a failure into the latest burst, or begins another one.
func (k *KeepAlive) countLocked(idle time.Duration, now time.Time) {
	if k.bound.Load() == 0 && now.Sub(k.failed) > coincidence {
		k.bursts, k.before = 0, 0
	}
	k.failed = now
	if k.bursts > 0 && now.Sub(k.burst) < oneBurst {
		k.longest = max(k.longest, idle)
		return
	}
	if k.bursts > 0 && (k.before == 0 || k.longest < k.before) {
		k.before = k.longest
	}
	k.bursts++
	k.burst, k.longest = now, idle
}

// KeepAlive is what is known of idle connections to the origin.
func (m *Member) KeepAlive() *KeepAlive { return &m.keepAlive }
