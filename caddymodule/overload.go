// SPDX-License-Identifier: Apache-2.0

// Overload: who passes to the origins of a site, who waits, who is refused.

package caddymodule

import (
	"context"
	"errors"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// limiters are the limits and the load of a pool's origins, which outlive
// configurations like everything that is known of origins.
type limiters struct {
	mu     sync.Mutex
	byAddr map[string]*originLoad // bounded by health.MaxMembers
	seed   maphash.Seed
}

func newLimiters() *limiters {
	return &limiters{byAddr: make(map[string]*originLoad), seed: maphash.MakeSeed()}
}

// of returns the load of these origins. Those that the pool no longer knows
// are forgotten.
func (l *limiters) of(addrs []string, pool *health.Pool, now time.Time) []*originLoad {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr := range l.byAddr {
		if pool.Lookup(addr) == nil {
			delete(l.byAddr, addr)
		}
	}
	all := make([]*originLoad, len(addrs))
	for i, addr := range addrs {
		if l.byAddr[addr] == nil {
			l.byAddr[addr] = newOriginLoad(now)
		}
		all[i] = l.byAddr[addr]
	}
	return all
}

// known returns the load of an origin; nil if it has none.
func (l *limiters) known(addr string) *originLoad {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byAddr[addr]
}

// errRefused ends a request that no origin has room for, errShed one that is
// refused to spare this host.
var (
	errRefused = errors.New("the origins have no room for the request")
	errShed    = errors.New("this host is under pressure and refuses requests of this class")
)

// admit lets a request pass, once for all of its attempts, after it has waited
// perhaps. It returns false if it is refused.
func (s *site) admit(ex *exchange, r *http.Request, now time.Time) bool {
	if s.gate == nil || ex.admitted {
		return ex.refused == concurrency.NotRefused
	}
	ex.admitted, ex.class = true, s.classOf(r)
	ask := concurrency.Request{Class: ex.class}
	if s.gate.Pressure() > 0 { // otherwise nobody asks who it is
		ask.Client = maphash.String(s.shared.limiters.seed, clientOf(r))
	}
	ticket, reason := s.gate.Admit(r.Context(), ask, now)
	ex.ticket, ex.refused = ticket, reason
	if would := ticket.Would; would != concurrency.NotRefused {
		s.app.registry.metrics.wouldShed.WithLabelValues(s.metricZone(), would.String(), ex.class.String()).Inc()
	}
	if ticket.Queued {
		s.app.registry.metrics.queued.WithLabelValues(s.metricZone()).Inc()
	}
	switch reason {
	case concurrency.NotRefused:
		return true
	case concurrency.Gone:
	default:
		s.app.registry.metrics.shed.WithLabelValues(s.metricZone(), reason.String(), ex.class.String()).Inc()
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

// turnAway ends a request that was not admitted. Caddy's proxy asks for an
// upstream again and again as long as it has time or retries left. Where it has
// time, which it would spend waiting, it gets an upstream, to which the transport
// sends nothing; our handler answers then. Without one of ours, nothing but the
// field that goes with the proxy's own 503 can be told.
func (s *site) turnAway(ex *exchange, pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	f, refused := ex.refusal(r.Context())
	if !refused {
		return nil
	}
	if ex.handled {
		return pool[0]
	}
	if ex.refused != concurrency.Shed && ex.refused != concurrency.Gone {
		ex.admitted = false // there may be room when the proxy asks again
	}
	if ex.Last() == nil {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
		ex.Note(f, "", failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonNoRoom})
		ex.report(s.app.faults, r, ending{outcomeError, http.StatusServiceUnavailable})
	}
	return nil
}

// refuse ends the request in the transport, see turnAway.
func (ex *exchange) refuse(ctx context.Context) error {
	f, _ := ex.refusal(ctx)
	ex.Note(f, "", failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonNoRoom})
	ex.takenBack = f.Cause != health.ClientGone
	return &attemptError{fault: health.Fault{Cause: health.ClientGone}, err: context.Canceled}
}

// steering is the gate for those who choose among origins; nil if all origins are
// as good as those that have room.
func (s *site) steering() *concurrency.Gate {
	if s.gate == nil || s.overload.Mode == concurrency.Observe {
		return nil
	}
	return s.gate
}

// limit gives the roster's upstreams their limits, and what is known of their
// load, with syncMu held. It lets all pass where addresses, or lists of them, depend
// on the request.
func (s *site) limit(r *roster, now time.Time) {
	if s.gate == nil || r.variable || s.perRequest {
		return
	}
	r.loads = s.shared.limiters.of(r.names, s.shared.health, now)
	r.load = make(map[*health.Member]*originLoad, len(r.loads))
	r.agents = make([]string, len(r.names))
	for i, name := range r.names {
		if m := s.shared.health.Lookup(name); m != nil {
			r.load[m] = r.loads[i]
		}
		if s.agent != nil {
			r.agents[i] = agentAddr(name, strconv.Itoa(s.agent.Port))
		}
	}
}

// gateOn makes the gate count the places of those upstreams that get requests: one
// that is ejected, or that its agent takes out, has them all free, and they are of
// no use to anybody.
func (s *site) gateOn() {
	if s.gate == nil {
		return
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.gateOnLocked(s.roster.Load())
}

func (s *site) gateOnLocked(r *roster) {
	if s.gate == nil || s.stopped || r == nil {
		return
	}
	fit := make([]*concurrency.Limiter, 0, len(r.loads))
	weights := s.weights()
	for i, l := range r.loads {
		if weights != nil && (i >= len(weights) || weights[i] <= 0) {
			continue // it gets nothing, so its room is of no use
		}
		if m := s.shared.health.Lookup(r.names[i]); (m == nil || m.State() == health.Healthy) && r.pool[i].Available() && !s.isOut(l) {
			fit = append(fit, l.limiter)
		}
	}
	if len(fit) == 0 { // the least bad one is chosen then
		for _, l := range r.loads {
			fit = append(fit, l.limiter)
		}
	}
	if !slices.Equal(fit, s.gated) {
		s.gated = fit
		s.gate.Sync(fit)
	}
}

// weights are those of weighted_round_robin; nil for any other policy.
func (s *site) weights() []int {
	if w, ok := s.chooser.(*reverseproxy.WeightedRoundRobinSelection); ok {
		return w.Weights
	}
	return nil
}

// closeGate lets those pass that still wait, and all that come late.
func (s *site) closeGate() {
	if s.gate == nil {
		return
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.stopped = true
	s.gate.Close()
}

// place is an attempt's place at its origin. An upload takes it when it has ended:
// a client could otherwise hold places by sending slowly.
type place struct {
	mu      sync.Mutex
	limiter *concurrency.Limiter // nil before the attempt, and after it
	permit  concurrency.Permit
	taken   bool
}

// takeNow takes the place, if the attempt still goes on.
func (p *place) takeNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limiter != nil && !p.taken {
		p.permit, p.taken = p.limiter.Take(), true
	}
}

// giveBack ends the attempt's claim to a place.
func (p *place) giveBack() concurrency.Permit {
	p.mu.Lock()
	defer p.mu.Unlock()
	permit := p.permit
	p.permit, p.limiter, p.taken = concurrency.Permit{}, nil, false
	return permit
}

// take takes a place at the attempt's origin, or lets the end of the upload do so.
func (a *attempt) take(req *http.Request) {
	s := a.transport.site
	if s.gate == nil {
		return
	}
	a.load = s.roster.Load().load[a.member]
	if a.load == nil { // other upstreams have come meanwhile
		a.load = s.shared.limiters.known(a.member.Addr())
	}
	if a.load != nil {
		a.place.limiter = a.load.limiter
		if !hasBody(req) {
			a.place.takeNow()
		}
	}
	a.ex.ticket.Use()
}

// giveBack gives the place back, when the first byte has come or the attempt has
// failed.
func (a *attempt) giveBack(f *health.Fault, status int, now time.Time) {
	outcome, took := concurrency.OK, a.ttfb
	switch {
	case f == nil && (status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout):
		outcome = concurrency.Overload // passed on as it is, and quick perhaps
	case f == nil && (status >= http.StatusBadRequest || status == http.StatusNotModified):
		outcome = concurrency.Ignored // quick: it is not what the origin has to do
	case f == nil && a.ttfb <= 0:
		outcome = concurrency.Ignored // an upload, or another protocol from here on
	case f == nil:
	case isOverload(f):
		outcome = concurrency.Overload
	case f.Cause == health.ClientGone && f.Phase != health.PhaseBody:
		if took = a.firstByte(now); took > 0 {
			outcome = concurrency.Abandoned
		} else {
			outcome = concurrency.Ignored
		}
	default:
		outcome = concurrency.Ignored
	}
	if outcome == concurrency.Overload {
		if a.ex.overloaded { // it may be the request that does it
			outcome = concurrency.Ignored
		}
		a.ex.overloaded = true
	}
	permit := a.place.giveBack()
	permit.Done(took, outcome, now)
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
		Err: errRefused, RetryAfter: concurrency.RetryAfter(ex.refused),
	}
	if ex.refused == concurrency.Shed {
		f.Side, f.Err = health.SideProxy, errShed
	}
	if ctx.Err() != nil {
		f.Cause, f.Side = health.ClientGone, health.SideClient
	}
	return f, true
}
