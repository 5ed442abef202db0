// SPDX-License-Identifier: Apache-2.0

// Probes: an origin that could not be connected to is taken back as soon as it
// can be.

package caddymodule

import (
	"context"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/health"
)

const (
	probeInterval = time.Second
	probeTimeout  = time.Second
	// maxProbes bounds the connections that are tried at the same time, for all
	// sites together; the rest waits for the next turn, or for its trial.
	maxProbes = 16
)

// probe looks once a second what can be done for origins that get no requests. It
// connects to the origins that are ejected because they could not be
// connected to, and to no others: what else is wrong with an origin no
// connection shows.
func (a *App) probe(ctx context.Context) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.probeOnce(ctx, turn)
		}
	}
}

// probeOnce begins with another site each turn, so that none waits for ever.
func (a *App) probeOnce(ctx context.Context, turn int) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	done := make(chan struct{}, maxProbes)
	running := 0
	known := make(map[*health.Member]bool) // sites may share a pool
	for i := range a.order {
		s := a.order[(i+turn)%len(a.order)]
		if s.roster.Load() == nil {
			continue
		}
		s.tell(s.view.Trim(time.Now()))
		for _, m := range s.view.Unreachable() {
			if running == maxProbes || s.reach == nil || known[m] {
				continue
			}
			known[m] = true
			running++
			go func() {
				defer func() { done <- struct{}{} }()
				var reached health.Phase
				if reachable(ctx, s.reach, m) {
					reached = health.PhaseDial
				}
				s.tell(s.view.Probed(m, reached, time.Now()))
			}()
		}
	}
	for range running {
		<-done
	}
}

// reachable tells whether a connection to the origin can be made.
func reachable(ctx context.Context, dial dialFunc, m *health.Member) bool {
	addr, err := caddy.ParseNetworkAddressWithDefaults(m.Addr(), "tcp", 0)
	if err != nil || addr.IsUnixNetwork() && addr.Host == "" {
		return false
	}
	conn, err := dial(ctx, addr.Network, addr.JoinHostPort(0))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
