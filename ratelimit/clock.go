// SPDX-License-Identifier: Apache-2.0

// A clock that does not run backwards.

package ratelimit

import (
	"sync/atomic"
	"time"
)

// clock turns the time of calls into one that buckets can live with: a bucket
// that sees time step back and forth refills twice. A call that comes late, be it
// by the hour that an answer took, sees the latest time that any call has told.
//
// Times are to have a monotonic reading, as those of time.Now: without one a
// zone stands still from when the system's clock is put back until it has come
// as far again.
type clock struct {
	begin  time.Time
	latest atomic.Int64 // since begin
}

func (c *clock) at(now time.Time) time.Time { return c.begin.Add(c.since(now)) }

func (c *clock) since(now time.Time) time.Duration {
	t := int64(now.Sub(c.begin))
	for {
		latest := c.latest.Load()
		if t <= latest {
			return time.Duration(latest)
		}
		if c.latest.CompareAndSwap(latest, t) {
			return time.Duration(t)
		}
	}
}
