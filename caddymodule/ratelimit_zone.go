// SPDX-License-Identifier: Apache-2.0

// The counters of rate limits, kept while configurations come and go: by zone, or
// with what is known of a site's upstreams.

package caddymodule

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// rateZones holds the zones that have names, for as long as a configuration
// uses them.
var rateZones = caddy.NewUsagePool()

// sharedRates is the state of a zone. It holds no policy.
type sharedRates struct {
	*ratelimit.Zone
	name string // "" for one that belongs to upstreams
	// used is the last configuration that had it, if it belongs to upstreams, and rate and
	// burst are its clients' budget there. Guarded by the registry.
	used        int64
	rate, burst float64

	mu     sync.Mutex // guards log
	log    rateSums
	warned atomic.Bool // it was told that nearly all comes from one private address
}

func newSharedRates(name string, size ratelimit.Size, now time.Time) *sharedRates {
	zone := ratelimit.NewZone(size, now)
	zone.TellsServed()
	return &sharedRates{Zone: zone, name: name, log: rateSums{since: now}}
}

// sizeBeside is how much a zone of upstreams remembers beside others. Whoever fills
// them all, with ever new networks of IPv6, must not fill the memory: the first few
// have the default, which is 88 MB when all of it was used, the next ones a quarter of
// it, and where there are many a sixteenth.
func sizeBeside(others int) ratelimit.Size {
	part := 16
	switch {
	case others < 4:
		part = 1
	case others < 16:
		part = 4
	}
	return ratelimit.Size{
		Identities: ratelimit.DefaultIdentities / part, Addresses: ratelimit.DefaultAddresses / part,
		Sites: ratelimit.DefaultSites / part, Bins: ratelimit.DefaultBins / part,
	}
}

// ratesOf is the zone of a pool for a limiter, made when one with its budgets asks for it
// first: most pools may have none. It is nil for a request that comes when nobody has
// the pool any more.
func (r *registry) ratesOf(p *sharedPool, l *rateLimiter, now time.Time) *sharedRates {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rates := p.foundRates(l); rates != nil || p.users == 0 {
		return rates
	}
	others := 0
	for _, q := range r.pools {
		others += len(q.rates)
	}
	if p.rates == nil {
		p.rates = make(map[string]*sharedRates)
	}
	p.rates[l.budgets] = newSharedRates("", sizeBeside(others), now)
	return p.foundRates(l)
}

// takeOver gives limiters the zones that upstreams have from configurations before. The
// next one may come before anybody has asked for them.
func (r *registry) takeOver(all []*rateLimiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range all {
		if l.shared != nil || l.site == nil || l.site.roster.Load() == nil {
			continue
		}
		if rates := l.site.shared.foundRates(l); rates != nil {
			l.rates.Store(rates)
		}
	}
}

// foundRates is the zone that a limiter has, or takes over; nil if there is none. The
// registry is to be locked.
func (p *sharedPool) foundRates(l *rateLimiter) *sharedRates {
	rates := p.rates[l.budgets]
	if rates == nil {
		old, ok := p.leftBehind(l)
		if !ok {
			return nil
		}
		rates = p.rates[old]
		delete(p.rates, old)
		p.rates[l.budgets] = rates
	}
	rates.used = max(rates.used, l.app.generation)
	rates.rate, rates.burst = l.policy.ClientBudget()
	return rates
}

// leftBehind finds a zone whose budgets a limiter's configuration has no more: who changes
// budgets does not want to begin anew. Of several it is the one whose clients had the most
// similar budget.
func (p *sharedPool) leftBehind(l *rateLimiter) (budgets string, ok bool) {
	rate, burst := l.policy.ClientBudget()
	least := math.Inf(1)
	for _, b := range slices.Sorted(maps.Keys(p.rates)) {
		old := p.rates[b]
		if old.used >= l.app.generation || slices.ContainsFunc(l.app.rateLimiters, func(other *rateLimiter) bool { return other.budgets == b && other.mayUse(p) }) {
			continue
		}
		if off := math.Abs(math.Log(rate/old.rate)) + math.Abs(math.Log(burst/old.burst)); off < least {
			budgets, ok, least = b, true, off
		}
	}
	return budgets, ok
}

// mayUse tells that a limiter's upstreams are a pool's, or are not known yet.
func (l *rateLimiter) mayUse(p *sharedPool) bool {
	if l.shared != nil || l.site == nil {
		return false
	}
	return l.site.roster.Load() == nil || l.site.shared == p
}

// forgetRates drops the zones of upstreams that no configuration since this one, which
// ends, has had, nor this one. Those that this one had are kept until the next
// ends: with dynamic upstreams it may take a while until the first request asks for them.
// The newest configuration drops none: one that ends before the others has not started.
func (r *registry) forgetRates(generation int64) {
	if generation == r.generations.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pools {
		maps.DeleteFunc(p.rates, func(_ string, z *sharedRates) bool { return z.used < generation })
	}
}

// Destruct implements caddy.Destructor.
func (*sharedRates) Destruct() error { return nil }

// acquireRates takes hold of a zone. Each call needs a releaseRates.
func acquireRates(name string, now time.Time) (*sharedRates, error) {
	v, _, err := rateZones.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newSharedRates(name, ratelimit.Size{}, now), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*sharedRates), nil
}

func releaseRates(name string) error {
	_, err := rateZones.Delete(name)
	return err
}

// attached is where the counters are; nil as long as there are none.
func (l *rateLimiter) attached() *sharedRates {
	if l.shared != nil {
		return l.shared
	}
	return l.rates.Load()
}

// label names the zone where a person reads it.
func (l *rateLimiter) label() string {
	if l.shared != nil {
		return l.zoneName
	}
	return l.site.label()
}

// zoneInUse is a zone and the limiters that use it.
type zoneInUse struct {
	name     string
	rates    *sharedRates
	limiters []*rateLimiter
}

// rateZonesInUse lists the zones of the running configurations by their names.
func (r *registry) rateZonesInUse() []*zoneInUse {
	r.mu.Lock()
	var all []*rateLimiter
	for l := range r.rateLimiters {
		all = append(all, l)
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *rateLimiter) int {
		return cmp.Or(cmp.Compare(b.app.generation, a.app.generation), cmp.Compare(a.number, b.number))
	})
	of := make(map[*sharedRates]*zoneInUse)
	var zones []*zoneInUse
	for _, l := range all {
		rates := l.attached()
		if rates == nil {
			continue
		}
		z := of[rates]
		if z == nil {
			z = &zoneInUse{name: l.label(), rates: rates}
			of[rates], zones = z, append(zones, z)
		}
		z.limiters = append(z.limiters, l)
	}
	slices.SortStableFunc(zones, func(a, b *zoneInUse) int { return cmp.Compare(a.name, b.name) })
	return zones
}
