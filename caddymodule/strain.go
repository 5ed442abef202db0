// SPDX-License-Identifier: Apache-2.0

// Strain: how much too much a site's upstreams have to do, for its rate limit.

package caddymodule

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// strain rises fast while upstreams are full and there is evidence of overload,
// and falls slowly afterwards. Nobody watches it while there are no requests:
// whoever asks brings it up to date. The zero value is none.
type strain struct {
	value atomic.Uint64 // as bits of a float64
	next  atomic.Int64  // when it is to be brought up to date, in ns

	mu    sync.Mutex
	spare float64 // 1 less the value; 0 stands for 1 as long as last is zero
	last  time.Time
}

const (
	strainTick = 100 * time.Millisecond
	// strainCut and strainEase bring it to 0.9 within a second, and to nothing
	// within five.
	strainCut, strainEase = 0.8, 0.02
	leastSpare            = 0.1
	// fullShare of their limits is when upstreams count as full: the limit lies
	// above what they can work on, so they are never empty then.
	fullShare = 0.9
)

// at is the strain of a site at a time.
func (t *strain) at(s *site, now time.Time) float64 {
	if now.UnixNano() >= t.next.Load() && t.mu.TryLock() {
		t.tickLocked(s.overloaded(), now)
		t.mu.Unlock()
	}
	return math.Float64frombits(t.value.Load())
}

func (t *strain) tickLocked(overloaded bool, now time.Time) {
	ticks := 1.0
	if t.last.IsZero() {
		t.spare = 1
	} else if ticks = max(0, float64(now.Sub(t.last))/float64(strainTick)); ticks < 1 {
		return
	}
	if overloaded {
		t.spare = max(leastSpare, strainCut*t.spare)
	} else {
		t.spare = min(1, t.spare+strainEase*ticks)
	}
	t.last = now
	t.value.Store(math.Float64bits(1 - t.spare))
	t.next.Store(now.Add(strainTick).UnixNano())
}

// overloaded tells that there is evidence that all upstreams that get requests have
// too much to do, and that they are full. Those that are out say nothing: an idle
// one must not hide what the others suffer.
func (s *site) overloaded() bool {
	s.syncMu.Lock()
	fit := s.gated // replaced, never changed
	s.syncMu.Unlock()
	return allFull(fit)
}

func allFull(fit []*concurrency.Limiter) bool {
	taken, limit := 0, 0
	for _, l := range fit {
		if !l.Engaged() {
			return false
		}
		taken += l.InFlight()
		limit += l.Limit()
	}
	return limit > 0 && float64(taken) >= fullShare*float64(limit)
}
