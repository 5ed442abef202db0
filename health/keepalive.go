// SPDX-License-Identifier: Apache-2.0

// KeepAlive learns for how long connections to an origin can be idle.

package health

import (
	"slices"
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
//
// A request that is lost on a connection which was idle may have been what broke
// the connection: it brings the origin down, or hangs it. So a loss counts only if
// no byte of the request was sent, or the same was answered on a fresh connection
// afterwards, or different requests were lost and none on a fresh connection; and
// what one cause explains counts once.
type KeepAlive struct {
	bound      atomic.Int64 // the limit + 1, in nanoseconds; 0: none is known
	survived   atomic.Int64 // the longest that was survived lately, in nanoseconds
	survivedAt atomic.Int64 // when, in Unix nanoseconds
	suspected  atomic.Int32 // how many suspects there are

	mu       sync.Mutex
	suspects []Loss        // the oldest first
	refuted  time.Time     // when a request was last lost on a fresh connection
	dead     time.Duration // the shortest that was too long
	failed   time.Time     // when the last failure came
	bursts   int
	burst    time.Time     // when the latest burst of failures began
	latest   time.Time     // when its latest failure came
	client   uint64        // whose request that was
	longest  time.Duration // the longest idle time in it
	before   time.Duration // the shortest of the bursts before it; 0: none
}

// Loss is a request that was lost on a connection which had been idle.
type Loss struct {
	Idle time.Duration
	// Took is how long the request had been under way; 0 if unknown.
	Took time.Duration
	// Client and Target stand for whose request it was and what it asked for.
	Client, Target uint64
	at             time.Time
}

const (
	// maxSuspects is how many losses wait for a proof. Beyond that the oldest is
	// forgotten, which makes learning slower and nothing wrong.
	maxSuspects = 16
	// unalike is how many different things must have been asked for by requests that
	// were lost on idle connections, and none on fresh ones meanwhile, so that it was
	// not what they asked for. Sites where no two POSTs ask for the same would
	// otherwise never learn.
	unalike = 3
	// oneClient is what failures of one client have to be apart to be two events, or
	// as long as the connection was idle, if that is longer: then it was idle at the
	// same time as the one before, so both show the same span. Nobody is to teach a
	// limit by a handful of requests at once.
	oneClient = 250 * time.Millisecond
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

// Forget takes back everything that was learned: somebody has seen to it.
func (k *KeepAlive) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bound.Store(0)
	k.survived.Store(0)
	k.survivedAt.Store(0)
	k.suspected.Store(0)
	k.suspects, k.refuted, k.dead, k.failed = nil, time.Time{}, 0, time.Time{}
	k.bursts, k.burst, k.latest, k.client, k.longest, k.before = 0, time.Time{}, time.Time{}, 0, 0, 0
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

// Suspect notes a loss of which the request may be the cause itself. It counts when
// Answered tells that it is not, or when losses of different requests have nothing
// else in common. Suspect tells whether a limit follows from that, where none was
// known, and from which idle time.
func (k *KeepAlive) Suspect(l Loss, now time.Time) (idle time.Duration, learned bool) {
	l.at = now
	return k.count(k.suspect(l))
}

// suspect returns the losses that count by now.
func (k *KeepAlive) suspect(l Loss) []Loss {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.suspects = slices.DeleteFunc(k.suspects, func(old Loss) bool { return l.at.Sub(old.at) > coincidence })
	if len(k.suspects) == maxSuspects {
		k.suspects = slices.Delete(k.suspects, 0, 1)
	}
	k.suspects = append(k.suspects, l)
	var proven []Loss
	if k.differentLocked() >= unalike {
		proven = slices.DeleteFunc(k.suspects, func(old Loss) bool { return !old.at.After(k.refuted) })
		k.suspects = nil
	}
	k.suspected.Store(int32(len(k.suspects)))
	return proven
}

// differentLocked is how many different things the suspects asked for since a
// request was last lost on a fresh connection.
func (k *KeepAlive) differentLocked() int {
	n := 0
	for i, l := range k.suspects {
		first := func(other Loss) bool { return other.Target == l.Target && other.at.After(k.refuted) }
		if l.at.After(k.refuted) && slices.IndexFunc(k.suspects, first) == i {
			n++
		}
	}
	return n
}

// Answered notes that a request for target was answered on a fresh connection: it
// is not what breaks connections. It tells whether a limit follows, where none was
// known, and from which idle time.
func (k *KeepAlive) Answered(target uint64, now time.Time) (idle time.Duration, learned bool) {
	taken := k.take(target, time.Time{})
	return k.count(slices.DeleteFunc(taken, func(l Loss) bool { return now.Sub(l.at) > coincidence }))
}

// Refuted notes that a request for target was lost on a fresh connection, too: to
// have been idle is not why.
func (k *KeepAlive) Refuted(target uint64, now time.Time) { k.take(target, now) }

// count takes proven losses for failures.
func (k *KeepAlive) count(proven []Loss) (idle time.Duration, learned bool) {
	for _, l := range proven {
		if k.Failed(l, l.at) {
			idle, learned = l.Idle, true
		}
	}
	return idle, learned
}

// Suspected tells whether any loss waits for a proof. It costs one atomic load.
func (k *KeepAlive) Suspected() bool { return k.suspected.Load() > 0 }

// take removes the suspects that asked for target; refuted is when that was lost on
// a fresh connection, if it was.
func (k *KeepAlive) take(target uint64, refuted time.Time) (taken []Loss) {
	if !k.Suspected() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if refuted.After(k.refuted) {
		k.refuted = refuted
	}
	k.suspects = slices.DeleteFunc(k.suspects, func(l Loss) bool {
		if l.Target == target {
			taken = append(taken, l)
		}
		return l.Target == target
	})
	k.suspected.Store(int32(len(k.suspects)))
	return taken
}

// Failed notes a loss that the connection's having been idle has certainly brought
// about, and tells whether a limit follows from that where none was known.
func (k *KeepAlive) Failed(l Loss, now time.Time) (learned bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetLocked(now)
	alive := time.Duration(k.survived.Load())
	if now.UnixNano()-k.survivedAt.Load() > int64(survivalCounts) {
		alive = 0
	}
	if alive >= l.Idle {
		return false // others were idle for longer: that was not why
	}
	k.countLocked(l, now)
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
func (k *KeepAlive) countLocked(l Loss, now time.Time) {
	if k.bound.Load() == 0 && now.Sub(k.failed) > coincidence {
		k.bursts, k.before = 0, 0
	}
	if now.After(k.failed) { // a loss may be proven after a later one
		k.failed = now
	}
	if k.bursts > 0 && k.isOfBurstLocked(l, now) {
		k.longest = max(k.longest, l.Idle)
		if now.After(k.latest) {
			k.latest = now
		}
		return
	}
	if k.bursts > 0 && (k.before == 0 || k.longest < k.before) {
		k.before = k.longest
	}
	k.bursts++
	k.burst, k.latest, k.client, k.longest = now, now, l.Client, l.Idle
}

// isOfBurstLocked tells whether one cause may explain a loss and the latest burst:
// one crash, one hang during which this request and one of the others were waiting,
// or one client.
func (k *KeepAlive) isOfBurstLocked(l Loss, now time.Time) bool {
	since := now.Sub(k.burst)
	return since < oneBurst || l.Took >= now.Sub(k.latest) || l.Client == k.client && since < max(oneClient, l.Idle)
}

// KeepAlive is what is known of idle connections to the origin.
func (m *Member) KeepAlive() *KeepAlive { return &m.keepAlive }
