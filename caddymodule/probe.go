// SPDX-License-Identifier: Apache-2.0

// Probes: an origin that could not be connected to is taken back as soon as it
// can be.

package caddymodule

import (
	"context"
	"net"
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.probeOnce(ctx)
		}
	}
}

func (a *App) probeOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	done := make(chan struct{}, maxProbes)
	running := 0
	for _, s := range a.order {
		if s.roster.Load() == nil {
			continue
		}
		s.tell(s.view.Trim(time.Now()))
		for _, m := range s.view.Unreachable() {
			if running == maxProbes {
				break
			}
			running++
			go func() {
				defer func() { done <- struct{}{} }()
				if reachable(ctx, m) {
					s.tell(s.view.Probed(m, health.PhaseDial, time.Now()))
				}
			}()
		}
	}
	for range running {
		<-done
	}
}

// reachable tells whether a connection to the origin can be made.
func reachable(ctx context.Context, m *health.Member) bool {
	addr, err := caddy.ParseNetworkAddressWithDefaults(m.Addr(), "tcp", 0)
	if err != nil || addr.IsUnixNetwork() && addr.Host == "" {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, addr.Network, addr.JoinHostPort(0))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
