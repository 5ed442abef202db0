// SPDX-License-Identifier: Apache-2.0

// The servers that use the guard: their queues of connections not yet accepted
// are watched.

package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/health/pressure"
)

// serverOf notes the server of the module that is just being provisioned, and
// asks it to tell of its clients' connections. Modules are provisioned before a
// server starts, so that nothing is missed.
func (a *App) serverOf(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || a.servers[server] != nil {
		return
	}
	conns := newClientConns(a.crowd)
	a.servers[server] = conns
	server.RegisterConnState(conns.changed)
}

// watchListeners begins to watch the servers' listeners, which exist once all
// apps have started. Each configuration watches its own: where two share one
// socket during a reload, it is watched twice, and one of them goes on.
func (a *App) watchListeners() {
	for server := range a.servers {
		for _, ln := range server.Listeners() {
			conn, err := pressure.RawConn(ln)
			if err != nil {
				continue // not a socket, or in a wrapper that hides it
			}
			a.unwatch = append(a.unwatch, a.registry.host.Watch(conn))
		}
	}
}

func (a *App) unwatchListeners() {
	for _, stop := range a.unwatch {
		stop()
	}
	a.unwatch = nil
}
