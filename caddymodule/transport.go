// SPDX-License-Identifier: Apache-2.0

// The transport: sends every attempt through the operator's own transport and
// sees what becomes of it.

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

func init() { caddy.RegisterModule(Transport{}) }

// Transport wraps another transport of the reverse proxy. It watches the
// connections to the upstreams, explains every fault in one log line, decides
// whether the request may be sent again, keeps the request's body for that, and
// holds the start of the response until it is safe.
//
// The proxy itself sends again, so it needs `retries` and the matcher
// `reset_guard` in `retry_match`, and the selection policy `reset_guard` to
// avoid the upstreams already tried. The `reset_guard` directive sets up all of
// it.
type Transport struct {
	// The transport that is wrapped. Default: `http`.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// What to do about faults.
	Failover *Failover `json:"failover,omitempty"`

	// Whether the proxy itself throws away a response with a status of
	// `retry_status`, by a matcher set in `retry_match` of `reset_guard` and an
	// expression that reads `{http.reverse_proxy.status_code}`. Such a response
	// does not count for `fail_duration`, so one broken page cannot take all
	// upstreams away; the directive sets both up where `fail_duration` is set.
	// Default: `false`.
	RetryMatchesStatus bool `json:"retry_matches_status,omitempty"`

	policy failover.Policy
	site   *site
	faults *faultLog
	replay *failover.SpoolBudget

	watchdogs *watchdogs // nil: stalls are allowed

	inner http.RoundTripper
	// own is the default transport, which nobody else would clean up.
	own *reverseproxy.HTTPTransport
	// watched tells that the wrapped transport's connections are seen.
	watched bool
	// multiplexes tells that all its connections carry several requests (h2c,
	// HTTP/3), mayMultiplex that some of them may carry HTTP/2.
	multiplexes, mayMultiplex bool
	onlyHTTP3                 bool
	// namesVary tells that the request has a say in the name that the upstream's
	// certificate must be for.
	namesVary bool
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.reset_guard",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision loads the wrapped transport and begins to watch its connections.
func (t *Transport) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	t.faults, t.replay = app.faults, app.replay
	t.policy = t.Failover.policy()
	if t.policy.Stall > 0 {
		t.watchdogs = newWatchdogs(t.policy.Stall)
	}
	t.site = app.siteOf(ctx)
	t.site.policy = &t.policy
	if err := t.loadInner(ctx); err != nil {
		return err
	}
	if ht, ok := t.inner.(*reverseproxy.HTTPTransport); ok {
		t.watchHTTP(ht)
		limitHandshake(ht.Transport, &t.policy)
	}
	return nil
}

func (t *Transport) loadInner(ctx caddy.Context) error {
	if t.TransportRaw == nil {
		t.own = new(reverseproxy.HTTPTransport)
		if err := t.own.Provision(ctx); err != nil {
			return fmt.Errorf("provisioning the default transport: %w", err)
		}
		t.inner = t.own
		return nil
	}
	if isModule(t.TransportRaw, "protocol") {
		return fmt.Errorf("the transport reset_guard cannot wrap itself: name the transport to wrap, such as http")
	}
	mod, err := ctx.LoadModule(t, "TransportRaw")
	if err != nil {
		return fmt.Errorf("loading the wrapped transport: %w", err)
	}
	inner, ok := mod.(http.RoundTripper)
	if !ok {
		return fmt.Errorf("%T is not a transport", mod)
	}
	t.inner = inner
	return nil
}

func (t *Transport) watchHTTP(ht *reverseproxy.HTTPTransport) {
	watch(ht)
	t.watched = true
	t.site.closeIdle = ht.Transport.CloseIdleConnections
	t.site.reach = directDial(ht)
	t.onlyHTTP3 = len(ht.Versions) == 1 && ht.Versions[0] == "3"
	t.namesVary = ht.TLS != nil && strings.Contains(ht.TLS.ServerName, "{")
	cleartext := slices.Contains(ht.Versions, "h2c")
	t.multiplexes = t.onlyHTTP3 || cleartext && ht.TLS == nil
	t.mayMultiplex = !t.onlyHTTP3 && (cleartext || ht.TLS != nil && slices.Contains(ht.Versions, "2"))
}

// Validate checks the options.
func (t *Transport) Validate() error {
	if err := t.Failover.validate(); err != nil {
		return fmt.Errorf("failover: %w", err)
	}
	if err := t.policy.Validate(); err != nil {
		return fmt.Errorf("failover: %w", err)
	}
	return nil
}

// Cleanup closes idle connections of the default transport; Caddy cleans up
// every other one.
func (t *Transport) Cleanup() error {
	if t.own == nil {
		return nil
	}
	return t.own.Cleanup()
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ex := t.exchange(req)
	if ex == nil { // an active health check: neither guarded nor counted
		return t.check(req)
	}
	if ex.refused != concurrency.NotRefused {
		return nil, ex.refuse(req.Context())
	}
	if err := ex.body.failure(); err != nil {
		return nil, ex.cannotSend(err)
	}
	ex.goOn()
	if err := ex.pause(req.Context()); err != nil {
		return nil, err
	}
	ex.next = failover.Decision{}
	a, err := t.begin(ex, req)
	if err != nil {
		return nil, a.cannotBegin(err)
	}
	ex.upstream, ex.key = a.upstream, a.key
	returned := false
	defer func() {
		if !returned { // it panics: its place is another's from now on
			a.stop(nil)
			a.conclude(new(health.Fault))
		}
	}()
	res, err := a.send()
	returned = true
	if err != nil {
		return nil, a.failed(err)
	}
	return a.answered(res)
}

// exchange finds the request's exchange, or makes one if no handler of ours
// came before. That one ends with the request, when Caddy lets go of it.
func (t *Transport) exchange(req *http.Request) *exchange {
	ctx := req.Context()
	ex := exchangeOf(ctx)
	if ex == nil || ex.owner != nil && ex.owner != t.site { // another proxy's, done before
		if ex = adoptExchange(ctx, t.site); ex == nil {
			return nil
		}
	}
	ex.Adopt(&t.policy, t.policy.Idempotent(req))
	ex.keepBody(req, &t.policy, t.replay, keepLess{
		nothing: req.ContentLength != 0 && t.site.app.short(),
		noFile:  req.ContentLength != 0 && t.site.app.shortOfFiles(),
	})
	return ex
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport reset_guard {
//	    transport <name> {
//	        ...
//	    }
//	    failover {
//	        ...
//	    }
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume transport name
	if d.NextArg() {
		return d.Errf("transport reset_guard takes a block, not '%s': name the transport to wrap in it", d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt := d.Val()
		if seen[opt] {
			return d.Errf("%s already specified", opt)
		}
		seen[opt] = true
		switch opt {
		case "transport":
			if err := t.unmarshalInner(d); err != nil {
				return err
			}
		case "failover":
			t.Failover = new(Failover)
			if err := t.Failover.unmarshalCaddyfile(d); err != nil {
				return err
			}
		default:
			return d.Errf("unknown option '%s' of transport reset_guard: allowed are transport and failover", opt)
		}
	}
	return nil
}

func (t *Transport) unmarshalInner(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("transport needs the name of the transport to wrap, such as http")
	}
	name := d.Val()
	if name == "reset_guard" {
		return d.Err("transport reset_guard cannot wrap itself: name the transport to wrap, such as http")
	}
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
	if err != nil {
		return err
	}
	inner, ok := mod.(http.RoundTripper)
	if !ok {
		return d.Errf("%s (%T) is not a transport", name, mod)
	}
	t.inner = inner // Caddy's proxy may still turn on TLS or h2c in it
	t.TransportRaw = caddyconfig.JSONModuleObject(inner, "protocol", name, nil)
	return nil
}
