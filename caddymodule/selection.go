// SPDX-License-Identifier: Apache-2.0

// The selection policy: any policy, but not an origin that has just failed.

package caddymodule

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() { caddy.RegisterModule(Selection{}) }

// Selection chooses an upstream by what is known of its health. By itself it
// draws two and takes the one that is expected to answer sooner: by latency,
// requests in flight and failures. Around another policy, it lets that choose
// among the upstreams that are not ejected.
//
// A request that is sent again avoids the upstreams that it has tried. When no
// upstream is left, the least bad one is chosen rather than none.
type Selection struct {
	// The policy that chooses. Default: the choice of two by health.
	SelectionPolicyRaw json.RawMessage `json:"selection_policy,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	// When upstreams get no requests.
	Eject *Eject `json:"eject,omitempty"`

	// The name under which what is known of upstreams is kept over reloads.
	// Proxies that name the same zone compare their upstreams with one another.
	// Default: proxies with mostly the same upstreams share one.
	Zone string `json:"zone,omitempty"`

	// How many requests upstreams get, and who waits or is refused.
	Overload *Overload `json:"overload,omitempty"`

	policy reverseproxy.Selector // nil: the choice of two
	sticky bool
	site   *site
}

// CaddyModule returns the Caddy module information.
func (Selection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.reset_guard",
		New: func() caddy.Module { return new(Selection) },
	}
}

// Provision loads the wrapped policy.
func (s *Selection) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	s.site = app.siteOf(ctx)
	s.site.zone, s.site.eject, s.site.selection = s.Zone, s.Eject.policy(), s
	if err := s.Overload.provision(ctx, s.site); err != nil {
		return err
	}
	if s.SelectionPolicyRaw == nil {
		return nil
	}
	if isModule(s.SelectionPolicyRaw, "policy") {
		return fmt.Errorf("the selection policy reset_guard cannot wrap itself: name the policy that is to choose, such as round_robin")
	}
	mod, err := ctx.LoadModule(s, "SelectionPolicyRaw")
	if err != nil {
		return fmt.Errorf("loading the wrapped selection policy: %w", err)
	}
	policy, ok := mod.(reverseproxy.Selector)
	if !ok {
		return fmt.Errorf("%T is not a selection policy", mod)
	}
	s.policy, s.sticky = policy, isSticky(policy)
	s.site.eject.Bound, s.site.chooser = s.sticky, policy
	return nil
}

// Validate checks the options.
func (s *Selection) Validate() error {
	if len(s.Zone) > maxZone {
		return fmt.Errorf("the zone's name has %d bytes: allowed are up to %d", len(s.Zone), maxZone)
	}
	if err := s.Eject.policy().Validate(); err != nil {
		return fmt.Errorf("eject: %w", err)
	}
	if hasPlaceholder(s.Zone) {
		return fmt.Errorf("zone: '%s' has a placeholder, and they are not filled in there: give a fixed name", s.Zone)
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy reset_guard [<policy> [<options...>]]
func (s *Selection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume policy name
	if !d.NextArg() {
		return nil
	}
	name := d.Val()
	if name == "reset_guard" {
		return d.Err("lb_policy reset_guard cannot wrap itself: name the policy that is to choose, such as round_robin")
	}
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.selection_policies."+name)
	if err != nil {
		return err
	}
	policy, ok := mod.(reverseproxy.Selector)
	if !ok {
		return d.Errf("%s (%T) is not a selection policy", name, mod)
	}
	s.SelectionPolicyRaw = caddyconfig.JSONModuleObject(policy, "policy", name, nil)
	return nil
}

// Select chooses an available upstream; nil if there is none.
func (s Selection) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	ex := s.exchange(r)
	if ex == nil {
		return s.fallback().Select(pool, r, w)
	}
	if ex.asked = true; len(pool) == 0 {
		return nil
	}
	// Here, and not in the transport: no origin is to be blamed for the wait, nor
	// to count the request as one in flight. A client that left is seen to there.
	_ = ex.pause(r.Context())
	now := time.Now()
	if !s.site.ensure(pool, now) {
		return s.fallback().Select(pool, r, w)
	}
	roster := s.site.known(pool, now) // before: its places are what is asked for
	if !s.site.admit(ex, r, now) {
		return s.site.turnAway(ex, pool, r, w)
	}
	if !ex.handled { // nobody would do so if no attempt comes of it
		defer ex.ticket.Use()
	}
	if ex.ticket.Queued && !ex.AnyTried() {
		now = time.Now()
	}
	ex.giveBackTrial(now)
	ex.pool, ex.site = pool, s.site
	q := question{
		Selection: s, ex: ex, pool: pool, r: r, w: w, now: now,
		roster: roster, trial: s.site.maySendAgain(r),
	}
	ex.usable = usable{pool: pool, gate: s.site.steering(), loads: q.roster.loads, class: ex.class, now: now, sticky: s.sticky}
	if s.policy == nil && q.roster.lists(pool) {
		if u, ok := q.pick(); ok {
			return u
		}
	}
	return q.choose()
}

// fallback chooses for requests that are none of a client's.
func (s Selection) fallback() reverseproxy.Selector {
	if s.policy != nil {
		return s.policy
	}
	return reverseproxy.RandomSelection{}
}

// exchange finds the request's exchange, or makes one if no handler of ours came
// before.
func (s Selection) exchange(r *http.Request) *exchange {
	ex := exchangeOf(r.Context())
	if ex == nil || ex.owner != nil && ex.owner != s.site { // another proxy's, done before
		return adoptExchange(r.Context(), s.site)
	}
	return ex
}

// withWeight returns the upstreams of which the weight is not zero, and their
// weights.
func withWeight(pool reverseproxy.UpstreamPool, weights []int) (reverseproxy.UpstreamPool, map[*reverseproxy.Upstream]int) {
	of := make(map[*reverseproxy.Upstream]int, len(weights))
	var weighted reverseproxy.UpstreamPool
	for i, u := range pool {
		if i < len(weights) && weights[i] > 0 {
			weighted, of[u] = append(weighted, u), weights[i]
		}
	}
	return weighted, of
}

// anyOf chooses at random, in proportion to the weights if there are any; nil if
// there is nothing to choose from.
func anyOf(pool reverseproxy.UpstreamPool, weights map[*reverseproxy.Upstream]int) *reverseproxy.Upstream {
	total := 0
	for _, u := range pool {
		total += weightOf(u, weights)
	}
	if total == 0 {
		return nil
	}
	at := rand.N(total)
	for _, u := range pool {
		if at -= weightOf(u, weights); at < 0 {
			return u
		}
	}
	return nil
}

func weightOf(u *reverseproxy.Upstream, weights map[*reverseproxy.Upstream]int) int {
	if weights == nil {
		return 1
	}
	return weights[u]
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Selection)(nil)
	_ caddy.Validator       = (*Selection)(nil)
	_ caddyfile.Unmarshaler = (*Selection)(nil)
	_ reverseproxy.Selector = (*Selection)(nil)
)
