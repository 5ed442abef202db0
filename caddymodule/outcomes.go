// SPDX-License-Identifier: Apache-2.0

// What becomes of attempts, told to what is known of the upstreams.

package caddymodule

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// enlist notes which upstream the attempt goes to, and counts it as in flight.
func (a *attempt) enlist(req *http.Request) {
	s := a.transport.site
	if m := a.ex.member; m != nil && m.Addr() != a.key && !strings.Contains(a.key, "{") {
		a.ex.giveBackTrial(a.began) // another policy, around ours, chose otherwise
	}
	a.member, a.trial = a.ex.member, a.ex.trial
	a.ex.member, a.ex.trial, a.ex.site = nil, false, s
	if a.member == nil {
		a.member = s.lookUp(req, a.key, a.began)
	}
	if a.member == nil {
		return
	}
	a.ex.current = a.member
	a.member.Begin()
	a.enlisted = true
	a.take(req)
	if a.ex.Attempts() == 1 {
		s.shared.budget.Request(a.began)
	}
}

// lookUp finds what is known of an upstream that another policy has chosen; nil
// if that is nothing at all.
func (s *site) lookUp(req *http.Request, key string, now time.Time) *health.Member {
	di, ok := reverseproxy.GetDialInfo(req.Context())
	if !ok || di.Upstream == nil {
		return nil
	}
	if !s.ensure(reverseproxy.UpstreamPool{di.Upstream}, now) {
		return nil
	}
	if m := s.roster.Load().fixed[di.Upstream]; m != nil {
		return m
	}
	if strings.Contains(key, "{") {
		key = di.Address
	}
	m, events := s.view.Add(key, now)
	s.tell(events)
	return m
}

// conclude tells, once, how the attempt ended; nil for an answer.
func (a *attempt) conclude(f *health.Fault) {
	if !a.enlisted {
		return
	}
	a.enlisted = false
	a.member.End()
	s, now := a.transport.site, time.Now()
	a.learn(f, a.view.Load(), now)
	o := health.Outcome{Fault: a.blame(f), Trial: a.trial}
	if f == nil {
		o.TTFB, o.Denied = a.pace(), a.status >= http.StatusBadRequest
	} else {
		o.Conn = a.lostConn(a.view.Load())
		// Once each, as an answer may be resumed any number of times.
		others := slices.DeleteFunc(a.ex.triedMembers, func(m *health.Member) bool { return m == a.member })
		a.ex.triedMembers = append(others, a.member)
		if o.Client = s.boundClient(a.out); f.Provoked {
			o.Client = max(1, clientHash(a.out))
		}
	}
	a.giveBack(f, 0, now)
	s.app.registry.metrics.attempt(a.member.Addr(), f, a.pace(), now)
	s.observe(a.member, o, now)
}

// pace is what the time to the first byte says of the origin's speed; 0 after an
// upload, which takes the client's time as well.
func (a *attempt) pace() time.Duration {
	if hasBody(a.out) {
		return 0
	}
	return a.ttfb
}

// againWeight is what a fault weighs if the same request has failed in such a way
// before, elsewhere: it may be the request that brings origins down.
const againWeight = 0.25

// blame shares a fault between the origin and the request. The first origin that
// breaks under a request is blamed in full. Those that follow are blamed less, and
// a trial is none then: four origins that crash at the same request are no worse
// than their peers.
func (a *attempt) blame(f *health.Fault) *health.Fault {
	if f == nil || f.Weight == 0 || !isOfRequest(f) {
		return f
	}
	again := a.ex.broke
	if a.ex.broke = again || f.Phase != health.PhaseStale; !again {
		return f
	}
	g := *f
	if g.Weight, g.Trip = min(g.Weight, againWeight), false; a.trial {
		g.Weight = 0
	}
	return &g
}

// isOfRequest tells whether the request may have brought the fault about: bytes of
// it were sent, and it is nothing that the origin or the network said of itself.
func isOfRequest(f *health.Fault) bool {
	return f.Safety != health.Unsent && f.Phase != health.PhaseDial && f.Phase != health.PhaseTLS &&
		f.Side == health.SideUpstream && !f.Trip
}

// observeHidden counts a fault that net/http has mended by itself.
func (a *attempt) observeHidden(f health.Fault, v *connView) {
	if a.member == nil {
		return
	}
	s, now := a.transport.site, time.Now()
	a.learn(&f, v, now)
	s.app.registry.metrics.fault(a.member.Addr(), &f)
	s.observe(a.member, health.Outcome{Fault: &f, Conn: a.lostConn(v)}, now)
}

// lostConn identifies a connection for several requests that has ended, so that
// its loss counts once; 0 for any other.
func (a *attempt) lostConn(v *connView) uint64 {
	if v == nil || v.conn == nil || !v.multiplexed || v.conn.End().Kind == health.Alive {
		return 0
	}
	return uint64(reflect.ValueOf(v.conn).Pointer())
}

// permitRetry asks the budget for a retry.
func (a *attempt) permitRetry(free bool) bool {
	s := a.transport.site
	if a.member == nil {
		return true
	}
	now := time.Now()
	load := failover.Load{Pressure: s.app.registry.host.State().P, PoolFault: s.shared.health.Down(now)}
	ok := s.shared.budget.Take(a.transport.policy.Budget, clientOf(a.out), free, load, now)
	if m := s.app.registry.metrics; ok {
		m.of(a.member.Addr()).retries.Inc()
	} else {
		m.refused.Inc()
	}
	return ok
}

// check passes on an active health check. One that was answered shows that the
// upstream can be connected to again.
func (t *Transport) check(req *http.Request) (*http.Response, error) {
	res, err := t.inner.RoundTrip(req)
	if err != nil || t.site.roster.Load() == nil {
		return res, err
	}
	key := req.URL.Host
	if di, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		key = di.Address
		if di.Upstream != nil {
			key = di.Upstream.String()
		}
	}
	if m := t.site.shared.health.Lookup(key); m != nil {
		t.site.tell(t.site.view.Probed(m, health.PhaseTLS, time.Now()))
	}
	return res, nil
}
