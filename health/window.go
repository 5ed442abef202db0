// SPDX-License-Identifier: Apache-2.0

// Counting of outcomes over a sliding window, without a bucket to write to on
// every outcome: a window is the difference between two totals.

package health

import (
	"sync/atomic"
	"time"
)

// unit is what one outcome counts in a tally. It is a power of two, so that the
// weights of a quarter and a half are whole numbers too.
const unit = 64

// The windows of all rates: ten seconds, that are moved on once a second. Ten
// seconds remember a fault for as long as the shortest ejections last.
const (
	buckets  = 10
	bucketOf = time.Second
)

// tally is a number of outcomes, in units. It only grows.
type tally struct{ failed, all int64 }

func (a tally) minus(b tally) tally { return tally{a.failed - b.failed, a.all - b.all} }

// without is minus for a part that may not be wholly contained.
func (a tally) without(b tally) tally {
	ok := max(0, a.all-a.failed-max(0, b.all-b.failed))
	failed := max(0, a.failed-b.failed)
	return tally{failed, failed + ok}
}

// counts gives failures and successes, never below zero: totals that several
// goroutines add to may be read between two additions.
func (a tally) counts() (failed, ok float64) {
	failed = float64(max(0, a.failed)) / unit
	return failed, max(0, float64(a.all)/unit-failed)
}

// rate is the share of failures; 0 if there were no outcomes.
func (a tally) rate() float64 {
	failed, ok := a.counts()
	if failed+ok == 0 {
		return 0
	}
	return failed / (failed + ok)
}

// window remembers what the total was at the start of each of the last seconds.
type window struct {
	starts [buckets]tally
	bucket int64
}

// advance makes t's bucket the current one. Buckets in between had no outcome.
func (w *window) advance(t time.Duration, total tally) {
	now := int64(t / bucketOf)
	if now <= w.bucket {
		return // the clock stepped back, or another goroutine was faster
	}
	for b := max(w.bucket, now-buckets) + 1; b <= now; b++ {
		w.starts[b%buckets] = total
	}
	w.bucket = now
}

// start is the total as it was when the window began.
func (w *window) start() tally { return w.starts[(w.bucket+1)%buckets] }

// counters are the sums of a pool: all outcomes of all its origins. Reading and
// adding need no lock; advance must not run twice at the same time.
type counters struct {
	failed, all   atomic.Int64
	failed0, all0 atomic.Int64 // as they were when the window began
	history       window
}

func (c *counters) add(failed int64) {
	c.all.Add(unit)
	if failed > 0 {
		c.failed.Add(failed)
	}
}

func (c *counters) total() tally { return tally{c.failed.Load(), c.all.Load()} }

// recent is the sum over the window.
func (c *counters) recent() tally {
	return c.total().minus(tally{c.failed0.Load(), c.all0.Load()})
}

func (c *counters) advance(t time.Duration) {
	c.history.advance(t, c.total())
	start := c.history.start()
	c.failed0.Store(start.failed)
	c.all0.Store(start.all)
}
