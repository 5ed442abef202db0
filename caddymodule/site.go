// SPDX-License-Identifier: Apache-2.0

// The site: what the selection policy and the transport of one reverse proxy
// know together of its origins.

package caddymodule

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// site belongs to one reverse proxy of one configuration. Its selection policy
// and its transport fill it in while they are provisioned; it is attached to the
// counters that outlive configurations when the app starts, or with the first
// request.
type site struct {
	app    *App
	number int64 // in the order of the configuration
	proxy  *reverseproxy.Handler

	zone   string
	eject  health.EjectPolicy
	policy *failover.Policy // nil without a transport of ours
	// chooser is the operator's policy; nil without one.
	chooser reverseproxy.Selector
	// selection is the policy that chooses; nil if that is not ours.
	selection *Selection
	// reach connects to an upstream as the transport would; nil if that is not
	// known, or leads through a proxy.
	reach dialFunc
	// closeIdle closes the connections to upstreams that wait for requests; nil if
	// the transport does not keep any, or does not tell.
	closeIdle func()
	// overload is nil if nothing is limited.
	overload   *concurrency.Policy
	priorities []priority
	gate       *concurrency.Gate // nil without overload; set before the roster
	agent      *Agent            // nil if no agents are asked
	strain     strain

	attach sync.Once
	// shared and view may be used once there is a roster.
	shared *sharedPool
	view   *health.View
	roster atomic.Pointer[roster]
	syncMu sync.Mutex // one change of the roster at a time
	// perRequest tells that the lists of upstreams depend on the request.
	// Guarded by syncMu.
	perRequest bool
	// gated is what the gate has, stopped tells that it is closed. Guarded by syncMu.
	gated   []*concurrency.Limiter
	stopped bool
}

// roster is the upstreams as the view has them. It is replaced, never changed.
type roster struct {
	pool     reverseproxy.UpstreamPool // what it was made from; its members may be replaced by equal ones
	names    []string
	fixed    map[*reverseproxy.Upstream]*health.Member // nil if upstreams come and go
	variable bool                                      // some addresses depend on the request
	loads    []*originLoad                             // in the order of names; nil if there are none
	load     map[*health.Member]*originLoad
	agents   []string // where the agents of loads listen; "" for none
}

// siteOf finds the site of the reverse proxy that is just being provisioned: the
// module that the context's own module belongs to.
func (a *App) siteOf(ctx caddy.Context) *site {
	var proxy *reverseproxy.Handler
	for _, m := range slices.Backward(ctx.Modules()) {
		if h, ok := m.(*reverseproxy.Handler); ok {
			proxy = h
			break
		}
	}
	if s := a.sites[proxy]; s != nil && proxy != nil {
		return s
	}
	s := &site{app: a, proxy: proxy, number: int64(len(a.order)), eject: health.EjectPolicy{
		// Without our selection policy nobody keeps to an ejection.
		Off: true, Base: health.DefaultEjectBase, Max: health.DefaultEjectMax, MaxShare: health.DefaultMaxShare,
	}}
	if a.guarding != nil {
		a.guarding.site, a.guarding = s, nil
	}
	a.sites[proxy] = s
	a.order = append(a.order, s)
	return s
}

// start attaches the site, with the upstreams that its configuration names.
func (s *site) start(now time.Time) {
	var pool reverseproxy.UpstreamPool
	if s.proxy != nil && s.proxy.DynamicUpstreams == nil {
		pool = s.proxy.Upstreams
	}
	if len(pool) > 0 {
		s.ensure(pool, now)
	}
}

// ensure attaches the site to the counters of its pool, once.
//
// It returns false if the site was stopped before it had any: then a request of
// the old configuration is the first to come.
func (s *site) ensure(pool reverseproxy.UpstreamPool, now time.Time) bool {
	var events []health.Transition
	s.attach.Do(func() {
		s.shared = s.app.registry.acquire(s.app.generation, s.zone, namesOf(pool), now)
		s.view = s.shared.health.View(s.eject)
		if s.overload != nil && s.policy != nil { // others take no places
			s.gate = concurrency.NewGate(*s.overload)
			s.gate.SetPressure(s.app.registry.host.State().P)
		}
		events = s.sync(pool, now)
		s.app.registry.enter(s)
	})
	s.tell(events)
	return s.roster.Load() != nil
}

// stop gives up what ensure took. Requests under way go on.
func (s *site) stop(now time.Time) {
	attached := true
	s.attach.Do(func() { attached = false })
	if !attached {
		return
	}
	s.app.registry.leave(s)
	s.view.Close()
	s.app.registry.release(s.shared, now)
}

func namesOf(pool reverseproxy.UpstreamPool) []string {
	names := make([]string, len(pool))
	for i, u := range pool {
		names[i] = u.String()
	}
	return names
}

// metricZone names the site's pool as a label, of which there are no more than
// the configurations name: "" where the names come from elsewhere.
func (s *site) metricZone() string {
	if r := s.roster.Load(); s.zone == "" && (r == nil || r.fixed == nil) {
		return ""
	}
	return labelOf(s.label())
}

// known returns the roster for this pool, made anew if the upstreams have
// changed. Static upstreams are the same slice each time; dynamic ones are made
// anew for each request, mostly with the same addresses.
func (s *site) known(pool reverseproxy.UpstreamPool, now time.Time) *roster {
	r := s.roster.Load()
	if r.fixed != nil || sameNames(r.names, pool) {
		return r // if another policy has filtered, what is static stays the same
	}
	s.tell(s.sync(pool, now))
	return s.roster.Load()
}

// lists tells that the view's indices are those of the pool.
func (r *roster) lists(pool reverseproxy.UpstreamPool) bool {
	if r.variable || len(pool) != len(r.names) {
		return false
	}
	return r.fixed == nil || len(pool) > 0 && &pool[0] == &r.pool[0]
}

func sameNames(names []string, pool reverseproxy.UpstreamPool) bool {
	if len(names) != len(pool) {
		return false
	}
	for i, u := range pool {
		if u.String() != names[i] {
			return false
		}
	}
	return true
}

// sync makes the pool's upstreams the view's origins.
func (s *site) sync(pool reverseproxy.UpstreamPool, now time.Time) []health.Transition {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	r := &roster{pool: pool, names: namesOf(pool)}
	origins := make([]health.Origin, 0, len(pool))
	for _, name := range r.names {
		if strings.Contains(name, "{") {
			r.variable = true
			continue
		}
		origins = append(origins, health.Origin{Addr: name})
	}
	events := s.view.Sync(origins, now)
	if s.proxy != nil && s.proxy.DynamicUpstreams == nil {
		r.fixed = make(map[*reverseproxy.Upstream]*health.Member, len(pool))
		for _, u := range pool {
			if m := s.shared.health.Lookup(u.String()); m != nil {
				r.fixed[u] = m
			}
		}
	}
	if old := s.roster.Load(); old != nil && r.fixed == nil && disjoint(old.names, r.names) {
		s.perRequest = true
	}
	s.limit(r, now)
	s.roster.Store(r)
	s.gateOnLocked(r)
	return events
}

// disjoint tells that two lists of upstreams have nothing in common. A request
// that sees to that depends on it: what is one request's room says nothing of
// another's.
func disjoint(old, names []string) bool {
	if len(old) == 0 || len(names) == 0 {
		return false
	}
	return !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(old, name) })
}

// member finds what is known of an upstream; an address that depends on the
// request is filled in.
func (s *site) member(r *roster, u *reverseproxy.Upstream, req *http.Request, now time.Time) *health.Member {
	if m := r.fixed[u]; m != nil {
		return m
	}
	name := u.String()
	if strings.Contains(name, "{") {
		if repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			name = repl.ReplaceAll(name, "")
		}
	} else if m := s.shared.health.Lookup(name); m != nil {
		return m
	}
	m, events := s.view.Add(name, now)
	s.tell(events)
	return m
}

// maySendAgain tells whether the request can be the trial of an ejected origin:
// nothing is lost if it fails.
func (s *site) maySendAgain(r *http.Request) bool {
	return s.policy != nil && s.policy.Attempts != 1 && (r.Body == nil || r.Body == http.NoBody) &&
		r.ContentLength == 0 && s.policy.Idempotent(r) && r.Header.Get("Upgrade") == ""
}

// boundClient identifies the client where each is bound to an upstream; 0 where
// none is, as then its requests are spread and say more.
func (s *site) boundClient(r *http.Request) uint64 {
	if !s.eject.Bound {
		return 0
	}
	return max(1, clientHash(r))
}

func clientHash(r *http.Request) uint64 { return maphash.String(clientSeed, clientOf(r)) }

// clientSeed keeps clients from choosing addresses whose hashes meet. It never
// changes.
var clientSeed = maphash.MakeSeed()

// clientOf names the client for the retry budget: its address, or its network
// where addresses are for the taking (RATELIMIT.md: a /64 is one client).
func clientOf(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return networkOf(ip)
}

// networkOf is the /64 of an IPv6 address, and an IPv4 address itself.
func networkOf(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	if addr = addr.Unmap(); addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.String()
}
