// SPDX-License-Identifier: Apache-2.0

// What can be seen of upstreams from outside: each pool once, however many
// sites and configurations share it at the moment.

package caddymodule

import (
	"cmp"
	"slices"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// poolInUse is a pool and the running sites that use it. The first one speaks
// for it: orders are carried out and told by it.
type poolInUse struct {
	zone     string
	health   *health.Pool
	limiters *limiters
	sites    []*site
}

// upstreamInUse is an upstream of a pool, with a site that has it.
type upstreamInUse struct {
	health.Standing
	site *site
}

// inUse lists the pools of the running configurations by their zones. While one
// configuration takes over from another, the sites of the new one come first: the
// old one no longer emits events.
func (r *registry) inUse() []*poolInUse {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := make(map[*sharedPool]*poolInUse)
	var pools []*poolInUse
	for s := range r.sites {
		p := of[s.shared]
		if p == nil {
			p = &poolInUse{health: s.shared.health, limiters: s.shared.limiters}
			of[s.shared], pools = p, append(pools, p)
		}
		p.sites = append(p.sites, s)
	}
	for _, p := range of {
		slices.SortFunc(p.sites, func(a, b *site) int {
			return cmp.Or(cmp.Compare(b.app.generation, a.app.generation), cmp.Compare(a.number, b.number))
		})
		p.zone = p.sites[0].label()
	}
	slices.SortFunc(pools, func(a, b *poolInUse) int {
		return cmp.Or(cmp.Compare(a.zone, b.zone), cmp.Compare(a.sites[0].number, b.sites[0].number))
	})
	return pools
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// goesBy tells whether a log line may have named the pool so. Sites without a
// zone go by their first upstream, which need not be the same one for all.
func (p *poolInUse) goesBy(zone string) bool {
	return slices.ContainsFunc(p.sites, func(s *site) bool { return s.label() == zone })
}

// upstreams lists each upstream once, by name.
func (p *poolInUse) upstreams(now time.Time) []upstreamInUse {
	var all []upstreamInUse
	known := make(map[string]bool)
	for _, s := range p.sites {
		for _, st := range s.view.Standing(now) {
			if !known[st.Addr] {
				known[st.Addr] = true
				all = append(all, upstreamInUse{st, s})
			}
		}
	}
	slices.SortFunc(all, func(a, b upstreamInUse) int { return cmp.Compare(a.Addr, b.Addr) })
	return all
}

// limitOf is what is known of an upstream's limit, and whether a running site
// keeps to it; nil if none has limits.
func (p *poolInUse) limitOf(addr string) (l *concurrency.Limiter, enforced bool) {
	for _, s := range p.sites {
		if s.gate == nil {
			continue
		}
		if l == nil {
			load := p.limiters.known(addr)
			if load == nil {
				return nil, false
			}
			l = load.limiter
		}
		enforced = enforced || s.gate.Enforces(l)
	}
	return l, enforced
}

// addresses are the upstreams of the running configurations.
func (r *registry) addresses(now time.Time) map[string]bool {
	known := make(map[string]bool)
	for _, p := range r.inUse() {
		for _, u := range p.upstreams(now) {
			known[u.Addr] = true
		}
	}
	return known
}
