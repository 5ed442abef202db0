// SPDX-License-Identifier: Apache-2.0

// What is told when an upstream begins, or no longer has, to be limited.

package caddymodule

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// limitLog remembers since when there is evidence of overload, over
// configurations. As evidence lasts ten seconds at the least, there are two lines
// in ten seconds for an upstream at the most.
type limitLog struct {
	mu    sync.Mutex
	since map[string]time.Time // only those limited now: bounded by the pool's upstreams
}

// note tells whether that has changed, and since when it was so.
func (l *limitLog) note(addr string, engaged bool, now time.Time) (since time.Time, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, was := l.since[addr]
	switch {
	case engaged == was:
		return since, false
	case engaged:
		if l.since == nil {
			l.since = make(map[string]time.Time)
		}
		l.since[addr] = now
	default:
		delete(l.since, addr)
	}
	return since, true
}

const (
	hintLimitedSlow = "Its answers take several times as long as without load, so it gets no more requests at a time than it can work on. Look for what slows it, or add capacity; see `limit` in `curl localhost:2019/reset_guard/upstreams`."
	hintLimitedFail = "It answers 503 or 504, or not in time, so it gets no more requests at a time than it can work on. Look for what loads it, or add capacity; see `limit` in `curl localhost:2019/reset_guard/upstreams`."
	hintLimitedTold = "It says itself that it has too much to do, so its limit holds. Look for what loads it, or add capacity; see `limit` in `curl localhost:2019/reset_guard/upstreams`."
)

// tellLimits writes which upstreams have begun, or no longer have, too much to do.
func (s *site) tellLimits(r *roster, now time.Time) {
	if s.overload.Mode == concurrency.Observe {
		return
	}
	for i, load := range r.loads {
		l := load.limiter
		since, changed := s.shared.limited.note(r.names[i], l.Engaged(), now)
		if !changed {
			continue
		}
		logger, st := s.app.health.logger, l.Status()
		if !st.Engaged {
			logger.Info("upstream no longer limited",
				zap.String("zone", clip(s.label())), zap.String("upstream", clip(r.names[i])),
				zap.Duration("lasted", now.Sub(since)))
			continue
		}
		hint := map[concurrency.Why]string{
			concurrency.Slow: hintLimitedSlow, concurrency.Errors: hintLimitedFail, concurrency.Told: hintLimitedTold,
		}[st.Why]
		logger.Warn("upstream limited",
			zap.String("zone", clip(s.label())), zap.String("upstream", clip(r.names[i])),
			zap.String("reason", string(st.Why)), zap.Int("limit", st.Limit), zap.Int("taken", st.Taken),
			zap.Duration("latency", st.Latency), zap.Duration("unloaded", st.Unloaded),
			zap.String("hint", hint))
	}
}
