// SPDX-License-Identifier: Apache-2.0

// The options of rate limits in the Caddyfile.

package caddymodule

import (
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// unmarshalCaddyfile reads the options, with the dispenser at their name, which
// is rate_limit or a directive's. Syntax:
//
//	rate_limit off
//	rate_limit [auto] {
//	    zone          <name>
//	    client        <rate> [burst <number>]
//	    network {
//	        base       <rate>
//	        per_client <rate>
//	        unproven   <rate>
//	    }
//	    identity      <placeholders...>
//	    cookie        <name> [<lifetime>] | off
//	    shared_ranges <networks...>
//	    headers       on | legacy | off
//	    dry_run
//	}
func (o *RateLimit) unmarshalCaddyfile(d *caddyfile.Dispenser, name string) error {
	for d.NextArg() {
		if o.Mode != "" || d.Val() != modeAuto && d.Val() != modeOff {
			return d.Errf("%s takes 'auto', 'off' or a block, not '%s'", name, d.Val())
		}
		o.Mode = d.Val()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt := d.Val()
		switch {
		case o.Mode == modeOff:
			return d.Errf("%s off takes no block: remove 'off' or the block", name)
		case seen[opt]:
			return d.Errf("%s already specified", opt)
		}
		seen[opt] = true
		if err := o.unmarshalOption(d, opt, name); err != nil {
			return err
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("%s takes no block", opt)
		}
	}
	switch {
	case o.Mode != "":
	case len(seen) > 0:
		o.Mode = modeFixed
	case name == limitDirective:
	default:
		return d.Errf("%s takes 'auto', 'off' or a block with at least one option", name)
	}
	if o.Mode == modeOff {
		return nil
	}
	if _, err := o.limiter(); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	return nil
}

// limitValues are the options of rate_limit and what they take.
var limitValues = map[string]string{
	"zone":          "a name, such as main",
	"client":        "a rate and a burst, such as 10/s burst 100",
	"identity":      "placeholders, such as {http.auth.user.id}",
	"cookie":        "a name and a lifetime, such as __Host-rg 7d, or 'off'",
	"shared_ranges": "networks, such as 100.64.0.0/10",
	"headers":       "on, legacy or off",
}

func (o *RateLimit) unmarshalOption(d *caddyfile.Dispenser, opt, name string) error {
	args := d.RemainingArgs()
	if takes, known := limitValues[opt]; known && len(args) == 0 {
		return d.Errf("%s needs a value: %s", opt, takes)
	}
	switch opt {
	case modeOff, modeAuto:
		return d.Errf("%s stands on the line of %s: %s %s", opt, name, name, opt)
	case "zone":
		if len(args) != 1 || args[0] == "" || len(args[0]) > maxZone {
			return d.Errf("zone takes one name of 1 to %d bytes", maxZone)
		}
		if hasPlaceholder(args[0]) {
			return d.Errf("zone takes a fixed name, not '%s': placeholders are not filled in there", args[0])
		}
		o.Zone = args[0]
	case "client":
		return o.unmarshalClient(d, args)
	case "network":
		return o.unmarshalNetwork(d, args)
	case "identity":
		o.Identity = args
	case "cookie":
		return o.unmarshalCookie(d, args)
	case "shared_ranges":
		o.SharedRanges = args
	case "headers":
		if len(args) != 1 {
			return d.Errf("headers takes one value, got %d", len(args))
		}
		o.Headers = args[0]
	case "dry_run":
		if len(args) > 0 {
			return d.Errf("dry_run takes no value, not '%s'", args[0])
		}
		o.DryRun = true
	default:
		return d.Errf("unknown option '%s' of %s: allowed are zone, client, network, identity, cookie, shared_ranges, headers and dry_run", opt, name)
	}
	return nil
}

// unmarshalClient reads `client <rate> [burst <number>]`.
func (o *RateLimit) unmarshalClient(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 && (len(args) != 3 || args[1] != "burst") {
		return d.Errf("client takes %s, not '%s'", limitValues["client"], strings.Join(args, " "))
	}
	o.Client = new(ClientBudget)
	if err := parseRate(d, "client", args[0], &o.Client.Rate); err != nil {
		return err
	}
	if len(args) == 1 {
		// As long as the defaults' lasts.
		o.Client.Burst = min(ratelimit.MaxBurst, max(1, o.Client.Rate*ratelimit.DefaultClientBurst/ratelimit.DefaultClientRate))
		return nil
	}
	n, err := strconv.ParseFloat(args[2], 64)
	if err != nil || !(n >= 1 && n <= ratelimit.MaxBurst) {
		return d.Errf("client: the burst '%s' is not a number from 1 to %d", args[2], int(ratelimit.MaxBurst))
	}
	o.Client.Burst = n
	return nil
}

// unmarshalNetwork reads the block of network.
func (o *RateLimit) unmarshalNetwork(d *caddyfile.Dispenser, args []string) error {
	if len(args) > 0 {
		return d.Errf("network takes a block, not '%s'", args[0])
	}
	n := new(NetworkBudget)
	o.Network = n
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt, args := d.Val(), d.RemainingArgs()
		if seen[opt] {
			return d.Errf("%s already specified", opt)
		}
		seen[opt] = true
		var dst *float64
		switch opt {
		case "base":
			dst = &n.Base
		case "per_client":
			n.PerClient = new(float64)
			dst = n.PerClient
		case "unproven":
			dst = &n.Unproven
		default:
			return d.Errf("unknown option '%s' of network: allowed are base, per_client and unproven", opt)
		}
		if len(args) != 1 {
			return d.Errf("%s takes one rate, such as 50/s, got %d values", opt, len(args))
		}
		if err := parseRate(d, opt, args[0], dst); err != nil {
			return err
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("%s takes no block", opt)
		}
	}
	if len(seen) == 0 {
		return d.Err("network takes a block with at least one option")
	}
	return nil
}

// unmarshalCookie reads `cookie <name> [<lifetime>] | off`.
func (o *RateLimit) unmarshalCookie(d *caddyfile.Dispenser, args []string) error {
	o.Cookie = new(LimitCookie)
	if len(args) == 1 && args[0] == "off" {
		o.Cookie.Off = true
		return nil
	}
	if args[0] == "off" {
		return d.Errf("cookie off takes no lifetime, got '%s'", strings.Join(args[1:], " "))
	}
	if len(args) > 2 {
		return d.Errf("cookie takes a name and a lifetime, got %d values", len(args))
	}
	o.Cookie.Name = args[0]
	if len(args) == 1 {
		return nil
	}
	v, err := caddy.ParseDuration(args[1])
	if err != nil || v < ratelimit.MinCookieLifetime || v > ratelimit.MaxCookieLifetime {
		return d.Errf("cookie: the lifetime '%s' is not a duration from %v to 7d", args[1], ratelimit.MinCookieLifetime)
	}
	o.Cookie.Lifetime = caddy.Duration(v)
	return nil
}

// ratePer are the units of rates.
var ratePer = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// leastRates are the lowest per second of those that have one above 0.
var leastRates = map[string]float64{"client": ratelimit.MinClientRate, "base": ratelimit.MinNetworkRate, "unproven": ratelimit.MinNetworkRate}

// parseRate reads 10/s, 600/m or 3600/h as a number per second.
func parseRate(d *caddyfile.Dispenser, opt, arg string, dst *float64) error {
	n, unit, _ := strings.Cut(arg, "/")
	v, err := strconv.ParseFloat(n, 64)
	per, known := ratePer[unit]
	if err != nil || !known || !(v > 0) {
		return d.Errf("%s: '%s' is not a rate above 0, such as 10/s, 600/m or 3600/h", opt, arg)
	}
	perSecond := v / per.Seconds()
	if least := leastRates[opt]; perSecond < least || perSecond > ratelimit.MaxRate {
		return d.Errf("%s: '%s' is %.2g per second: allowed are %v/s (%v/h) to %v/s", opt, arg, perSecond, least, least*3600, int(ratelimit.MaxRate))
	}
	*dst = perSecond
	return nil
}
