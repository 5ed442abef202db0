// SPDX-License-Identifier: Apache-2.0

// The servers that use the guard.

package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
