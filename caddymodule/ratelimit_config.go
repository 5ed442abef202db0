// SPDX-License-Identifier: Apache-2.0

// The options of rate limits, in JSON, and what they become.

package caddymodule

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// RateLimit is how much each client gets, and how much all who share an address.
type RateLimit struct {
	// `auto` refuses nobody while origins and this host are well, and sheds by
	// class under pressure; `fixed` lets the budgets bind always; `off`.
	// Default: `auto`.
	Mode string `json:"mode,omitempty"`

	// Where the counters are kept. All that name the same zone share them.
	// Default: in `reset_guard` that of the upstreams, in `reset_guard_limit`
	// `main`.
	Zone string `json:"zone,omitempty"`

	// What one client gets. Default: 10 per second and 100 at once in `fixed`,
	// no limit in `auto`.
	Client *ClientBudget `json:"client,omitempty"`

	// What all who share an address get. Only in `fixed`.
	Network *NetworkBudget `json:"network,omitempty"`

	// Placeholders that say who a client is. The first one that is not empty
	// counts. Those that a client can fill in as it likes, such as header
	// fields and variables, count once an origin has answered to the same value
	// with 2xx, as a proven cookie does, until one answers with 401.
	Identity []string `json:"identity,omitempty"`

	// The cookie by which clients are told apart.
	Cookie *LimitCookie `json:"cookie,omitempty"`

	// Networks with many people behind each address.
	SharedRanges []string `json:"shared_ranges,omitempty"`

	// Whether to tell clients their budgets: `on` in RateLimit and
	// RateLimit-Policy, `legacy` also in the three older fields, `off` not at
	// all. Default: `on`.
	Headers string `json:"headers,omitempty"`

	// Whether to refuse nobody, and to count and log who would have been.
	DryRun bool `json:"dry_run,omitempty"`
}

// ClientBudget is what one client gets.
type ClientBudget struct {
	// Requests per second, from 0.01.
	Rate float64 `json:"rate"`

	// Requests at once, from 1.
	Burst float64 `json:"burst"`
}

// NetworkBudget is what all who share an address get, in requests per second.
// What is left out has its default.
type NetworkBudget struct {
	// For clients that have proven themselves. Default: 50.
	Base float64 `json:"base,omitempty"`

	// How much each of these adds. Default: 1.
	PerClient *float64 `json:"per_client,omitempty"`

	// For all others, without pressure. Default: 150.
	Unproven float64 `json:"unproven,omitempty"`
}

// LimitCookie is the cookie by which clients are told apart.
type LimitCookie struct {
	// Whether there is none. Then only an identity tells clients apart.
	Off bool `json:"off,omitempty"`

	// Its name. Over plain HTTP it goes without the prefix `__Host-`. Default:
	// `__Host-rg`.
	Name string `json:"name,omitempty"`

	// How long it lives after its last renewal, from 10 minutes to 7 days. It is
	// renewed in use once it is a day old, or half as old as it gets if that is
	// less. Default: `168h`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
}

// The modes, and how much is told.
const (
	modeAuto  = "auto"
	modeFixed = "fixed"
	modeOff   = "off"

	headersOn     = "on"
	headersLegacy = "legacy"
	headersOff    = "off"
)

// defaultZone is where limits are kept that belong to no upstreams.
const defaultZone = "main"

// maxIdentities bounds what is looked up for each request.
const maxIdentities = 8

// limiter makes of the options what is asked for each request; nil if nothing is
// limited.
func (o *RateLimit) limiter() (*rateLimiter, error) {
	if o == nil {
		o = new(RateLimit)
	}
	l := &rateLimiter{zoneName: o.Zone, headers: o.Headers}
	switch o.Mode {
	case "", modeAuto:
		l.policy = ratelimit.AutoPolicy()
		if o.Network != nil {
			return nil, fmt.Errorf("network does not go with %s, where addresses get shares of what the upstreams can do: leave out '%s', or in JSON set the mode to '%s'", modeAuto, modeAuto, modeFixed)
		}
	case modeFixed:
		l.policy = ratelimit.DefaultPolicy()
	case modeOff:
		return nil, nil
	default:
		return nil, fmt.Errorf("the mode is %q: allowed are %s, %s and %s", o.Mode, modeAuto, modeFixed, modeOff)
	}
	if len(o.Zone) > maxZone {
		return nil, fmt.Errorf("zone: the name has %d bytes: allowed are 1 to %d", len(o.Zone), maxZone)
	}
	if hasPlaceholder(o.Zone) {
		return nil, fmt.Errorf("zone takes a fixed name, not '%s': placeholders are not filled in there", o.Zone)
	}
	if o.Client != nil {
		l.policy.ClientRate, l.policy.ClientBurst = o.Client.Rate, o.Client.Burst
		if o.Client.Rate == 0 {
			return nil, fmt.Errorf("client: the rate is 0: allowed is 0.01 to %v", ratelimit.MaxRate)
		}
	}
	o.Network.apply(&l.policy)
	l.policy.DryRun = o.DryRun
	for _, set := range []func(*rateLimiter) error{o.setCookie, o.setRanges, o.setIdentity, o.setHeaders} {
		if err := set(l); err != nil {
			return nil, err
		}
	}
	l.terms = fmt.Sprintf("%+v %q", l.policy, o.Identity)
	budgets := l.policy
	budgets.ClientRate, budgets.ClientBurst = l.policy.ClientBudget() // none in auto is the default's
	budgets.CookieLifetime, budgets.DryRun = 0, false
	l.budgets = fmt.Sprintf("%+v", budgets)
	return l, l.policy.Validate()
}

func (n *NetworkBudget) apply(p *ratelimit.Policy) {
	if n == nil {
		return
	}
	if n.Base != 0 {
		p.Base = n.Base
	}
	if n.PerClient != nil {
		p.PerClient = *n.PerClient
	}
	if n.Unproven != 0 {
		p.Unproven = n.Unproven
	}
}

func (o *RateLimit) setCookie(l *rateLimiter) error {
	l.cookie = namesOfCookie("")
	switch c := o.Cookie; {
	case c == nil:
	case c.Off:
		l.policy.CookieLifetime = 0
	default:
		if c.Lifetime != 0 {
			l.policy.CookieLifetime = time.Duration(c.Lifetime)
		}
		if err := validCookieName(c.Name); err != nil {
			return err
		}
		l.cookie = namesOfCookie(c.Name)
	}
	return nil
}

// validCookieName allows what a cookie's name may be (RFC 6265 section 4.1.1);
// empty is the default.
func validCookieName(name string) error {
	plain := strings.TrimPrefix(name, hostPrefix)
	switch {
	case name == "":
		return nil
	case len(name) > maxZone || plain == "" || !httpguts.ValidHeaderFieldName(plain):
		return fmt.Errorf("cookie: '%s' is no name: allowed are 1 to %d letters, digits and dashes, such as %s", clip(name), maxZone, ratelimit.CookieName)
	case strings.HasPrefix(plain, "__"):
		return fmt.Errorf("cookie: browsers treat names with this prefix in ways of their own: '%s' may begin with %s or without a prefix", name, hostPrefix)
	}
	return nil
}

func (o *RateLimit) setRanges(l *rateLimiter) error {
	for _, text := range o.SharedRanges {
		prefix, err := parseRange(text)
		if err != nil {
			return err
		}
		l.policy.SharedRanges = append(l.policy.SharedRanges, prefix)
	}
	return nil
}

// parseRange reads a network, or an address.
func parseRange(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, fmt.Errorf("shared_ranges: '%s' is not a network, such as 100.64.0.0/10", clip(text))
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return prefix, fmt.Errorf("shared_ranges: '%s' is wider than all of IPv4: write IPv4 networks as such", clip(text))
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

func (o *RateLimit) setIdentity(l *rateLimiter) error {
	if len(o.Identity) > maxIdentities {
		return fmt.Errorf("identity: there are %d placeholders: allowed are %d", len(o.Identity), maxIdentities)
	}
	for _, text := range o.Identity {
		source, err := parseIdentity(text)
		if err != nil {
			return err
		}
		l.identity = append(l.identity, source)
	}
	return nil
}

func (o *RateLimit) setHeaders(l *rateLimiter) error {
	switch o.Headers {
	case "":
		l.headers = headersOn
	case headersOn, headersLegacy, headersOff:
	default:
		return fmt.Errorf("headers: '%s' is none: allowed are %s, %s and %s", clip(o.Headers), headersOn, headersLegacy, headersOff)
	}
	if l.headers != headersOff && l.policy.ClientRate > 0 {
		l.policyField = policyField(&l.policy)
	}
	return nil
}
