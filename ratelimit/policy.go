// SPDX-License-Identifier: Apache-2.0

// The settings, their defaults with reasons, and their bounds.

package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// The defaults of a Policy. Rates are requests per second.
const (
	// DefaultClientRate is twenty times what reading a site page by page takes
	// on average (15 requests every 30 s).
	DefaultClientRate = 10
	// DefaultClientBurst holds six such pages at once.
	DefaultClientBurst = 100
	// DefaultBase lets a household or small office work before anybody counted
	// how many people it has.
	DefaultBase = 50
	// DefaultPerClient is twice the average of somebody reading.
	DefaultPerClient = 1
	// DefaultUnproven lets 300 newcomers read at one address without pressure.
	DefaultUnproven = 150
	// DefaultCookieLifetime is how long a returning visitor stays known.
	DefaultCookieLifetime = 7 * 24 * time.Hour
)

// What is not configurable, and why.
const (
	// unprovenMin is left to newcomers of an address under full pressure: an
	// address is never shut.
	unprovenMin = 20
	// unprovenPerUser: of the people behind an address a fifth is new at a time.
	unprovenPerUser = 0.2
	// provenShare is the most of the capacity that one address's proven pool has.
	provenShare = 0.4
	// provenMax is that without a known capacity.
	provenMax = 300
	// maxUsers ends promotion at an address: counting more in 256 bits has an
	// error beyond 11 %, and carriers put fewer people behind one.
	maxUsers = 1000
	// knownPart of the unproven pool is for tokens, the rest for what has none.
	knownPart = 0.6
	// unprovenShare of the capacity is the most that all unproven traffic gets.
	unprovenShare = 0.5
	// leastShare keeps a trickle open under full pressure, or nothing could be
	// learned of the pressure's end.
	leastShare = 0.15
	// sharedUsers are assumed at an address of SharedRanges before any is counted.
	sharedUsers = 32
	// capacityFloor is assumed while nothing was learned.
	capacityFloor = 200
	// referenceCapacity is what the default budgets were made for; `auto` scales
	// them by what the origins can do.
	referenceCapacity = 600
)

// The bounds of what Validate allows.
const (
	MaxRate = 1_000_000.0
	// MinClientRate is one request in 100 s, and MinNetworkRate one per second.
	MinClientRate, MinNetworkRate = 0.01, 1.0
	MaxBurst                      = 1_000_000.0
	MaxRanges                     = 1024
	// MaxCookieLifetime is what KeyRing can verify.
	MaxCookieLifetime = 7 * 24 * time.Hour
	// MinCookieLifetime leaves time for being proven and using it.
	MinCookieLifetime = 10 * time.Minute
	// MaxWeight of a request: no single one costs more than a few pages.
	MaxWeight = 100
)

// Policy is what one site wants. It travels with each call: a Zone holds none.
// The zero value is not valid; see DefaultPolicy and AutoPolicy.
type Policy struct {
	// Auto makes all budgets shares of what the origins can do. Nobody is
	// refused without pressure, and what is left of the capacity is lent to
	// whoever asks. Otherwise the budgets bind always.
	Auto bool
	// ClientRate and ClientBurst are one identity's budget, in requests per
	// second and requests. In Auto, 0 sets none.
	ClientRate, ClientBurst float64
	// Base is the proven pool of an address, per second, and PerClient what each
	// proven identity adds to it.
	Base, PerClient float64
	// Unproven is the pool of an address for all that is unproven, per second,
	// while there is no pressure.
	Unproven float64
	// Capacity is what the origins can do, per second; 0: learned.
	Capacity float64
	// CookieLifetime is how long a token is valid; 0: no cookies.
	CookieLifetime time.Duration
	// DryRun tells that whoever is refused is let pass all the same: it is only
	// counted.
	DryRun bool
	// SharedRanges are networks known for many people behind each address.
	SharedRanges []netip.Prefix
}

// DefaultPolicy is a policy whose budgets bind.
func DefaultPolicy() Policy {
	return Policy{
		ClientRate: DefaultClientRate, ClientBurst: DefaultClientBurst,
		Base: DefaultBase, PerClient: DefaultPerClient, Unproven: DefaultUnproven,
		CookieLifetime: DefaultCookieLifetime,
	}
}

// AutoPolicy is the policy that is used unless configured otherwise: it refuses
// nobody while there is no pressure.
func AutoPolicy() Policy {
	p := DefaultPolicy()
	p.Auto, p.ClientRate, p.ClientBurst = true, 0, 0
	return p
}

// Validate tells every setting that is out of its range.
func (p *Policy) Validate() error {
	errs := []error{
		p.validateClient(),
		inRange("network base", p.Base, MinNetworkRate, MaxRate),
		inRange("network per_client", p.PerClient, 0, MaxRate),
		inRange("network unproven", p.Unproven, MinNetworkRate, MaxRate),
		p.validateCookie(),
	}
	if p.Capacity != 0 {
		errs = append(errs, inRange("capacity", p.Capacity, 1, MaxRate))
	}
	return errors.Join(append(errs, p.validateRanges())...)
}

func (p *Policy) validateClient() error {
	if p.Auto && p.ClientRate == 0 && p.ClientBurst == 0 {
		return nil
	}
	return errors.Join(
		inRange("client rate", p.ClientRate, MinClientRate, MaxRate),
		inRange("client burst", p.ClientBurst, 1, MaxBurst))
}

func (p *Policy) validateCookie() error {
	if d := p.CookieLifetime; d != 0 && (d < MinCookieLifetime || d > MaxCookieLifetime) {
		return fmt.Errorf("cookie lifetime is %v: allowed is %v to %v, or off", d, MinCookieLifetime, MaxCookieLifetime)
	}
	return nil
}

func (p *Policy) validateRanges() error {
	if n := len(p.SharedRanges); n > MaxRanges {
		return fmt.Errorf("there are %d shared_ranges: allowed are %d", n, MaxRanges)
	}
	for _, r := range p.SharedRanges {
		if !r.IsValid() {
			return fmt.Errorf("a shared range is not an address range such as 100.64.0.0/10")
		}
	}
	return nil
}

// inRange refuses NaN too.
func inRange(what string, v, low, high float64) error {
	if v >= low && v <= high {
		return nil
	}
	return fmt.Errorf("%s is %v: allowed is %v to %v", what, v, low, high)
}

// clientBinds tells that an identity over its budget is refused even in Auto.
func (p *Policy) clientBinds() bool { return !p.Auto || p.ClientRate > 0 }

// ClientBudget is an identity's, per second and at once.
func (p *Policy) ClientBudget() (rate, burst float64) {
	if p.ClientRate > 0 {
		return p.ClientRate, p.ClientBurst
	}
	return DefaultClientRate, DefaultClientBurst
}

// provenLimit is the most that an address's proven pool gets per second.
func (p *Policy) provenLimit() float64 {
	if p.Capacity > 0 {
		return max(p.Base, provenShare*p.Capacity)
	}
	return max(p.Base, provenMax)
}

// unprovenCalm is an address's unproven pool without its users' part.
func (p *Policy) unprovenCalm(pressure float64) float64 {
	least := min(unprovenMin, p.Unproven)
	return least + (p.Unproven-least)*(1-pressure)
}

// priorUsers is how many people an address has before they are counted.
func (p *Policy) priorUsers(addr netip.Addr) float64 {
	for _, r := range p.SharedRanges {
		if r.Contains(addr) {
			return sharedUsers
		}
	}
	return 0
}

// cleanPressure makes any number a pressure from 0 to 1.
func cleanPressure(p float64) float64 {
	if math.IsNaN(p) {
		return 0
	}
	return min(1, max(0, p))
}
