// SPDX-License-Identifier: Apache-2.0

// The request that resumes a response: where it goes, and what has to be
// different for that.

package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/health"
)

// dialInfoKey is where Caddy's proxy keeps in a request's context where it goes
// (reverseproxy.GetDialInfo). It does not export the key; a test tells if that
// changes.
const dialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// choose finds the upstream to go on from, by the site's own policy: one that has
// not failed since the last progress, or else the least bad. nil stands for the
// one at hand, if no other is known.
func (rl *relay) choose() (*reverseproxy.Upstream, *health.Member) {
	a, now := rl.first, time.Now()
	s := a.transport.site
	if s.selection == nil || len(a.ex.pool) == 0 || s.roster.Load() == nil {
		return nil, nil
	}
	ex := &rl.tried
	ex.member, ex.trial = nil, false
	q := question{
		Selection: *s.selection, ex: ex, pool: a.ex.pool, r: a.out, w: headerOnly{}, now: now,
		roster: s.known(a.ex.pool, now),
	}
	ex.usable = usable{pool: a.ex.pool, gate: s.steering(), loads: q.roster.loads, class: a.ex.class, now: now, sticky: q.sticky}
	if q.policy == nil && q.roster.lists(a.ex.pool) {
		if u, ok := q.pick(); ok {
			return u, ex.member
		}
	}
	return q.choose(), ex.member
}

// headerOnly takes the cookie that a sticky policy would set: the client has the
// header already.
type headerOnly struct{}

func (headerOnly) Header() http.Header         { return make(http.Header) }
func (headerOnly) Write(p []byte) (int, error) { return len(p), nil }
func (headerOnly) WriteHeader(int)             {}

// begin makes the attempt at u, of which nil is the upstream at hand.
func (rl *relay) begin(u *reverseproxy.Upstream, member *health.Member, sent int64) *attempt {
	first := rl.first
	ctx := context.Context(untraced{first.client})
	out := withoutBody(first.out, first.ex.spool)
	req := out.WithContext(ctx)
	if old, ok := reverseproxy.GetDialInfo(ctx); ok && u != nil {
		if di, ok := dialInfo(ctx, u); ok {
			ctx = context.WithValue(ctx, dialInfoKey, di)
			req = redirect(out.WithContext(ctx), old, di)
		}
	}
	req.Header = req.Header.Clone()
	first.resumption.Ask(req.Header, sent)
	a := new(attempt)
	first.ex.Attempt()
	first.ex.member = member
	first.transport.prepare(a, first.ex, req)
	first.ex.upstream, first.ex.key = a.upstream, a.key
	return a
}

// dialInfo does for an upstream what Caddy's proxy does before each attempt: it
// fills in the address and sets the placeholders, on which the name in a TLS
// handshake may depend.
func dialInfo(ctx context.Context, u *reverseproxy.Upstream) (reverseproxy.DialInfo, bool) {
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return reverseproxy.DialInfo{}, false
	}
	addr, err := caddy.ParseNetworkAddress(repl.ReplaceAll(u.Dial, ""))
	if err != nil || addr.PortRangeSize() != 1 {
		return reverseproxy.DialInfo{}, false
	}
	di := reverseproxy.DialInfo{
		Upstream: u, Network: addr.Network, Address: addr.JoinHostPort(0),
		Host: addr.Host, Port: strconv.Itoa(int(addr.StartPort)),
	}
	repl.Set("http.reverse_proxy.upstream.address", di.String())
	repl.Set("http.reverse_proxy.upstream.hostport", di.Address)
	repl.Set("http.reverse_proxy.upstream.host", di.Host)
	repl.Set("http.reverse_proxy.upstream.port", di.Port)
	return di, true
}

// redirect points a request, which is a copy, to another upstream. What header_up
// has put into it stays, but for a Host that is the upstream's own, as Caddy sets
// it for upstreams with TLS.
func redirect(req *http.Request, old, di reverseproxy.DialInfo) *http.Request {
	u := *req.URL
	req.URL = &u
	host := di.Address
	if u.Scheme == "http" && di.Port == "80" || u.Scheme == "https" && di.Port == "443" {
		host = di.Host
	}
	if plain, err := url.QueryUnescape(u.Host); err == nil {
		if client, _, ok := strings.Cut(plain, "->"); ok { // of the PROXY protocol: one connection for each client
			host = url.QueryEscape(client + "->" + host)
		}
	}
	if req.Host == old.Address || req.Host == u.Host {
		req.Host = di.Address
	}
	u.Host = host
	return req
}

// untraced is a context without its trace: that one tells another attempt.
type untraced struct{ context.Context }

// Value implements context.Context.
func (c untraced) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}
