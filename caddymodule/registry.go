// SPDX-License-Identifier: Apache-2.0

// What is known about origins, kept while configurations come and go.

package caddymodule

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// registries holds one registry, for as long as a configuration uses it: the new
// one takes hold of it before the old one lets go.
var registries = caddy.NewUsagePool()

const registryKey = "reset_guard"

// acquireRegistry takes hold of the registry. Each call needs a releaseRegistry.
func acquireRegistry() (*registry, error) {
	v, _, err := registries.LoadOrNew(registryKey, func() (caddy.Destructor, error) {
		return newRegistry(), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*registry), nil
}

// currentRegistry is the registry, without a hold on it; nil if no configuration
// uses one.
func currentRegistry() (r *registry) {
	registries.Range(func(_, v any) bool {
		r = v.(*registry)
		return false
	})
	return r
}

func newRegistry() *registry {
	r := &registry{
		sites: make(map[*site]bool), rateLimiters: make(map[*rateLimiter]bool),
		host: newHost(time.Now()), keys: newCookieKeys(),
	}
	r.metrics = newMetrics(r.addresses)
	return r
}

func releaseRegistry() error {
	_, err := registries.Delete(registryKey)
	return err
}

// registry finds the counters that belong to a site. It holds no policy.
type registry struct {
	mu    sync.Mutex
	pools []*sharedPool
	sites map[*site]bool // of the running configurations
	// rateLimiters are those of the running configurations.
	rateLimiters map[*rateLimiter]bool

	metrics *metrics // counters go on over configurations
	host    *host
	keys    *cookieKeys

	generations atomic.Int64 // configurations so far
}

// maxSpare is how many pools are kept of which no site is left, in case that it
// comes back: an operator may take a site out for a while.
const maxSpare = 64

// sharedPool is what a site's origins did, over configurations.
type sharedPool struct {
	zone   string // as configured; "" if it was not
	health *health.Pool
	budget *failover.Budget
	*limiters
	limited limitLog
	// rates are the zones of rate limits, by the budgets of those who use them, which a
	// zone cannot have several of. Guarded by the registry; no more than the running
	// configurations and the one before have.
	rates map[string]*sharedRates

	// names are the upstreams of the sites that used it last, as configured, and
	// generation is their configuration's. Both guarded by the registry.
	names      []string
	generation int64
	users      int
	unused     time.Time
}

// Destruct implements caddy.Destructor.
func (r *registry) Destruct() error {
	r.host.Close()
	return nil
}

// acquire finds the pool of a site, or makes one. Sites share one if they name
// the same zone. Where no zone is named, the upstreams tell: sites of one
// configuration share a pool if most of their upstreams are the same, and one
// that no site of this configuration uses is taken over by whoever has most
// upstreams in common with the site that used it before.
//
// A site of an old configuration, which a request reaches late, changes nothing
// about whose the pool is.
func (r *registry) acquire(generation int64, zone string, names []string, now time.Time) *sharedPool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.findLocked(generation, zone, names)
	if p == nil {
		p = &sharedPool{zone: zone, health: health.NewPool(now), budget: failover.NewBudget(now), limiters: newLimiters()}
		r.pools = append(r.pools, p)
	}
	if p.generation < generation {
		p.generation, p.names = generation, nil
	}
	for _, name := range names {
		if !slices.Contains(p.names, name) {
			p.names = append(p.names, name)
		}
	}
	p.users++
	return p
}

func (r *registry) findLocked(generation int64, zone string, names []string) *sharedPool {
	var best *sharedPool
	most := 0
	for _, p := range r.pools {
		switch {
		case p.zone != zone:
		case zone != "":
			return p
		case p.generation == generation:
			if n := common(p.names, names); 2*n > max(len(p.names), len(names)) {
				return p
			}
		default:
			if n := common(p.names, names); n > most {
				best, most = p, n
			}
		}
	}
	return best
}

func common(a, b []string) (n int) {
	for _, name := range a {
		if slices.Contains(b, name) {
			n++
		}
	}
	return n
}

// release lets go of a pool. The ones unused for the longest time are forgotten.
func (r *registry) release(p *sharedPool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.users--
	p.unused = now
	spare, oldest := 0, -1
	for i, q := range r.pools {
		if q.users > 0 {
			continue
		}
		if spare++; oldest < 0 || q.unused.Before(r.pools[oldest].unused) {
			oldest = i
		}
	}
	if spare > maxSpare {
		r.pools = slices.Delete(r.pools, oldest, oldest+1)
	}
}

// use and disuse keep the list of rate limiters that can be looked at from outside.
func (r *registry) use(all []*rateLimiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range all {
		r.rateLimiters[l] = true
	}
}

func (r *registry) disuse(all []*rateLimiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range all {
		delete(r.rateLimiters, l)
	}
}

// enter and leave keep the list of sites that can be looked at from outside.
func (r *registry) enter(s *site) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sites[s] = true
}

func (r *registry) leave(s *site) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sites, s)
}
