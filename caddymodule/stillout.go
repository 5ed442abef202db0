// SPDX-License-Identifier: Apache-2.0

// Upstreams that are out as a configuration begins, and those that operators
// have taken out.

package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/health"
)

// tellStillOut writes a line for each pool with upstreams that an earlier
// configuration left out: an order is easily forgotten.
func (a *App) tellStillOut(now time.Time) {
	told := make(map[*sharedPool]bool)
	for _, s := range a.order {
		if s.roster.Load() == nil || told[s.shared] {
			continue
		}
		told[s.shared] = true
		s.tellStillOut(now)
	}
}

func (s *site) tellStillOut(now time.Time) {
	var which []string
	all, out := s.view.Standing(now), 0
	for _, st := range all {
		if st.State == health.Healthy {
			continue
		}
		if out++; out <= maxNamed {
			which = append(which, fmt.Sprintf("%s: %s, %s", clip(st.Addr), st.State, st.Reason))
		}
	}
	if out == 0 {
		return
	}
	level := zapcore.InfoLevel
	if out == len(all) {
		level = zapcore.WarnLevel
	}
	s.app.health.logger.Log(level, "upstreams still out",
		zap.String("zone", clip(s.label())),
		zap.Strings("which", which),
		zap.Int("upstreams", len(all)),
		zap.Int("ejected", out),
		zap.String("hint", "What is known of upstreams lives through reloads. What an operator has taken out (`manual`) stays out until it is restored with `curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'`."),
	)
}

// ordersOut tells that operators have taken out all upstreams of the pool.
func (s *site) ordersOut(pool reverseproxy.UpstreamPool) bool {
	if s == nil || s.roster.Load() == nil || len(pool) == 0 {
		return false
	}
	for _, u := range pool {
		if m := s.shared.health.Lookup(u.String()); m == nil || !m.Manual() {
			return false
		}
	}
	return true
}
