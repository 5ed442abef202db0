// SPDX-License-Identifier: Apache-2.0

// The counters of rate limits, kept while configurations come and go: by zone, or
// with what is known of a site's upstreams.

package caddymodule

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// limitZones holds the zones that have names, for as long as a configuration
// uses them.
var limitZones = caddy.NewUsagePool()

// sharedLimits is the state of a zone. It holds no policy.
type sharedLimits struct {
	*ratelimit.Zone
	name string // "" for one that belongs to upstreams

	mu     sync.Mutex // guards log
	log    limitSums
	warned atomic.Bool // it was told that nearly all comes from one private address
}

func newSharedLimits(name string, now time.Time) *sharedLimits {
	return &sharedLimits{Zone: ratelimit.NewZone(ratelimit.Size{}, now), name: name, log: limitSums{since: now}}
}

// Destruct implements caddy.Destructor.
func (*sharedLimits) Destruct() error { return nil }

// acquireLimits takes hold of a zone. Each call needs a releaseLimits.
func acquireLimits(name string, now time.Time) (*sharedLimits, error) {
	v, _, err := limitZones.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newSharedLimits(name, now), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*sharedLimits), nil
}

func releaseLimits(name string) error {
	_, err := limitZones.Delete(name)
	return err
}

// attached is where the counters are; nil as long as there are none.
func (l *limiter) attached() *sharedLimits {
	if l.shared == nil && l.site != nil && l.site.roster.Load() != nil {
		return l.site.shared.limits
	}
	return l.shared
}

// label names the zone where a person reads it.
func (l *limiter) label() string {
	if l.shared != nil {
		return l.zoneName
	}
	return l.site.label()
}

// zoneInUse is a zone and the limiters that use it.
type zoneInUse struct {
	name     string
	limits   *sharedLimits
	limiters []*limiter
}

// limitsInUse lists the zones of the running configurations by their names.
func (r *registry) limitsInUse() []*zoneInUse {
	r.mu.Lock()
	var all []*limiter
	for l := range r.limiters {
		all = append(all, l)
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *limiter) int {
		return cmp.Or(cmp.Compare(b.app.generation, a.app.generation), cmp.Compare(a.number, b.number))
	})
	of := make(map[*sharedLimits]*zoneInUse)
	var zones []*zoneInUse
	for _, l := range all {
		limits := l.attached()
		if limits == nil {
			continue
		}
		z := of[limits]
		if z == nil {
			z = &zoneInUse{name: l.label(), limits: limits}
			of[limits], zones = z, append(zones, z)
		}
		z.limiters = append(z.limiters, l)
	}
	slices.SortStableFunc(zones, func(a, b *zoneInUse) int { return cmp.Compare(a.name, b.name) })
	return zones
}
