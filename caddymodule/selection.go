// SPDX-License-Identifier: Apache-2.0

// The selection policy: any policy, but not an origin that has just failed.

package caddymodule

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() { caddy.RegisterModule(Selection{}) }

// Selection wraps another selection policy so that a request which is sent
// again avoids the upstreams that it has tried. The first choice is always the
// wrapped policy's own. When every available upstream has been tried, the ones
// that failed least often are chosen from, and not the latest one if there is
// another.
type Selection struct {
	// The policy that chooses. Default: `random`.
	SelectionPolicyRaw json.RawMessage `json:"selection_policy,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	policy reverseproxy.Selector
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
	if s.SelectionPolicyRaw == nil {
		s.policy = reverseproxy.RandomSelection{}
		return nil
	}
	mod, err := ctx.LoadModule(s, "SelectionPolicyRaw")
	if err != nil {
		return fmt.Errorf("loading the wrapped selection policy: %w", err)
	}
	policy, ok := mod.(reverseproxy.Selector)
	if !ok {
		return fmt.Errorf("%T is not a selection policy", mod)
	}
	s.policy = policy
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
	ex := exchangeOf(r.Context())
	if ex == nil {
		return s.policy.Select(pool, r, w)
	}
	ex.asked, ex.pool = true, pool
	if !ex.AnyTried() {
		return s.policy.Select(pool, r, w)
	}
	// Here, and not in the transport: no origin is to be blamed for the wait, nor
	// to count the request as one in flight. A client that left is seen to there.
	_ = ex.pause(r.Context())
	return s.selectAgain(ex, pool, r, w)
}

// selectAgain lets the wrapped policy choose among the upstreams left, so that
// a hash finds its next place. A policy that takes turns is not asked: a retry
// would take a turn of its own, and with one upstream of three at fault half of
// all requests would begin there instead of a third.
func (s Selection) selectAgain(ex *exchange, pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	switch policy := s.policy.(type) {
	case *reverseproxy.RoundRobinSelection:
		return anyOf(leastTried(ex, pool), nil)
	case *reverseproxy.WeightedRoundRobinSelection:
		weighted, weights := withWeight(pool, policy.Weights)
		return anyOf(leastTried(ex, weighted), weights)
	}
	candidates := leastTried(ex, pool)
	if u := s.policy.Select(candidates, r, w); u != nil {
		return u
	}
	return anyOf(candidates, nil)
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

// leastTried returns the available upstreams that have failed least often in
// this exchange, without the one that failed last if there are others.
func leastTried(ex *exchange, pool reverseproxy.UpstreamPool) reverseproxy.UpstreamPool {
	var least reverseproxy.UpstreamPool
	times := -1
	for _, u := range pool {
		if !u.Available() || u.String() == ex.LastTried() {
			continue
		}
		switch n := ex.Tried(u.String()); {
		case times < 0 || n < times:
			times, least = n, append(least[:0], u)
		case n == times:
			least = append(least, u)
		}
	}
	if len(least) > 0 {
		return least
	}
	for _, u := range pool {
		if u.Available() {
			least = append(least, u)
		}
	}
	return least
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Selection)(nil)
	_ caddyfile.Unmarshaler = (*Selection)(nil)
	_ reverseproxy.Selector = (*Selection)(nil)
)
