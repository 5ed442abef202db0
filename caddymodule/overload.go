// SPDX-License-Identifier: Apache-2.0

// Overload: who passes to the origins of a site, who waits, who is refused.

package caddymodule

import (
	"context"
	"errors"
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// limiters are the limits of a pool's origins, which outlive configurations like
// everything that is known of origins.
type limiters struct {
	mu     sync.Mutex
	byAddr map[string]*concurrency.Limiter // bounded by health.MaxMembers
	seed   maphash.Seed
}

func newLimiters() *limiters {
	return &limiters{byAddr: make(map[string]*concurrency.Limiter), seed: maphash.MakeSeed()}
}

// of returns the limiters of these origins. Those that the pool no longer knows
// are forgotten.
func (l *limiters) of(addrs []string, pool *health.Pool, now time.Time) []*concurrency.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr := range l.byAddr {
		if pool.Lookup(addr) == nil {
			delete(l.byAddr, addr)
		}
	}
	all := make([]*concurrency.Limiter, len(addrs))
	for i, addr := range addrs {
		if l.byAddr[addr] == nil {
			l.byAddr[addr] = concurrency.NewLimiter(now)
		}
		all[i] = l.byAddr[addr]
	}
	return all
}

// errRefused ends a request that no origin has room for.
var errRefused = errors.New("the origins have no room for the request")

// admit lets a request pass, once for all of its attempts, after it has waited
// perhaps. It returns false if it is refused.
func (s *site) admit(ex *exchange, r *http.Request, now time.Time) bool {
	if s.gate == nil || ex.admitted {
		return ex.refused == concurrency.NotRefused
	}
	ex.admitted, ex.class = true, s.classOf(r)
	ticket, reason := s.gate.Admit(r.Context(), concurrency.Request{Class: ex.class, Client: s.hashOf(r)}, now)
	ex.ticket, ex.refused = ticket, reason
	if would := ticket.Would; would != concurrency.NotRefused {
		s.app.registry.metrics.wouldShed.WithLabelValues(would.String(), ex.class.String()).Inc()
	}
	if ticket.Queued {
		s.app.registry.metrics.queued.Inc()
	}
	switch reason {
	case concurrency.NotRefused:
		return true
	case concurrency.Gone:
	default:
		s.app.registry.metrics.shed.WithLabelValues(reason.String(), ex.class.String()).Inc()
	}
	return false
}

// classOf is how important a request is: the first class with a matcher that
// matches.
func (s *site) classOf(r *http.Request) concurrency.Class {
	for _, p := range s.priorities {
		if ok, err := p.matchers.AnyMatchWithError(r); ok && err == nil {
			return p.class
		}
	}
	return concurrency.Default
}

// hashOf tells clients apart, so that one is in or out for a while.
func (s *site) hashOf(r *http.Request) uint64 {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return maphash.String(s.shared.limiters.seed, ip)
}

// take takes a place at the attempt's origin.
func (a *attempt) take() {
	s := a.transport.site
	if s.gate == nil {
		return
	}
	if l := s.roster.Load().limiter[a.member]; l != nil {
		a.permit = l.Take(a.began)
	}
	a.ex.ticket.Use()
}

// giveBack gives the place back, when the first byte has come or the attempt has
// failed.
func (a *attempt) giveBack(f *health.Fault, now time.Time) {
	outcome := concurrency.OK
	switch {
	case f == nil && a.ttfb <= 0:
		outcome = concurrency.Ignored // an upload, or another protocol from here on
	case f == nil:
	case isOverload(f):
		outcome = concurrency.Overload
	default:
		outcome = concurrency.Ignored
	}
	a.permit.Done(a.ttfb, outcome, now)
	a.permit = concurrency.Permit{}
}

// isOverload tells that a fault is a sign of too much to do.
func isOverload(f *health.Fault) bool {
	switch f.Cause {
	case health.Overloaded:
		return true
	case health.Timeout:
		return f.Phase == health.PhaseWait || f.Phase == health.PhaseDial
	case health.Status:
		return f.StatusCode == http.StatusServiceUnavailable || f.StatusCode == http.StatusGatewayTimeout
	}
	return false
}

// refusal makes of a refused request what the handler answers.
func (ex *exchange) refusal(ctx context.Context) (health.Fault, bool) {
	if ex.refused == concurrency.NotRefused {
		return health.Fault{}, false
	}
	f := health.Fault{
		Cause: health.Overloaded, Phase: health.PhaseDial, Side: health.SideUpstream,
		Err: errRefused, RetryAfter: concurrency.RetryAfter(),
	}
	if ctx.Err() != nil {
		f.Cause, f.Side = health.ClientGone, health.SideClient
	}
	return f, true
}
