// SPDX-License-Identifier: Apache-2.0

// A clock that does not run backwards.

package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"
)

// clock turns the time of calls into one that buckets can live with: a bucket
// that sees time step back and forth refills twice. Calls come a little out of
// order; what is further behind is a step of the system's clock, after which
// time goes on from where it was.
type clock struct {
	begin  time.Time
	latest atomic.Int64 // since begin
	offset atomic.Int64 // what steps back have taken away
	mu     sync.Mutex
}

// disorder is how late a call may be without being taken for a step.
const disorder = time.Second

func (c *clock) at(now time.Time) time.Time { return c.begin.Add(c.since(now)) }

func (c *clock) since(now time.Time) time.Duration {
	raw := int64(now.Sub(c.begin))
	t := raw + c.offset.Load()
	for {
		latest := c.latest.Load()
		if t <= latest-int64(disorder) {
			t = c.step(raw)
			continue
		}
		if t <= latest {
			return time.Duration(latest)
		}
		if c.latest.CompareAndSwap(latest, t) {
			return time.Duration(t)
		}
	}
}

// step lets time go on after the system's clock was put back.
func (c *clock) step(raw int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	latest := c.latest.Load()
	if t := raw + c.offset.Load(); t > latest-int64(disorder) {
		return t // somebody else has dealt with it
	}
	c.offset.Store(latest - raw)
	return latest
}
