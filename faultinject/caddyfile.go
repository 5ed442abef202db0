// SPDX-License-Identifier: Apache-2.0

// This file reads the "fault" directive of a Caddyfile.

package faultinject

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(helper.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	fault [<matcher>] <kind> [<probability>] {
//	    probability <0..1>
//	    seed        <number>
//	    after       <size>
//	    for         <duration>
//	    status      <code>
//	    retry_after <duration>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	if !d.NextArg() {
		return d.ArgErr()
	}
	h.Kind = Fault(d.Val())
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	seen := make(map[string]bool)
	if d.NextArg() {
		seen["probability"] = true
		if err := h.unmarshalProbability(d, d.Val()); err != nil {
			return err
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt := d.Val()
		if seen[opt] {
			return d.Errf("fault %s: %s is already set: set it once", h.Kind, opt)
		}
		seen[opt] = true
		if err := h.unmarshalOption(d, opt); err != nil {
			return err
		}
	}
	if err := h.complete(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalOption reads one option and checks it at once, so that the error
// names its line.
func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, opt string) error {
	var raw string
	switch opt {
	case "probability", "seed", "after", "for", "status", "retry_after":
		if !d.AllArgs(&raw) {
			return d.ArgErr()
		}
	default:
		return d.Errf("fault %s: option %q is unknown: use probability, seed, after, for, status or retry_after", h.Kind, opt)
	}
	var err error
	switch opt {
	case "probability":
		return h.unmarshalProbability(d, raw)
	case "seed":
		h.Seed, err = strconv.ParseUint(raw, 10, 64)
	case "after":
		h.After, err = parseSize(raw)
	case "for":
		h.For, err = parseDuration(raw)
	case "status":
		h.Status, err = strconv.Atoi(raw)
		if err == nil {
			err = checkStatus(h.Status) // 0 would mean that none is set
		}
	case "retry_after":
		h.RetryAfter, err = parseDuration(raw)
	}
	if err != nil {
		return d.Errf("fault %s: reading %s: %w", h.Kind, opt, err)
	}
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) unmarshalProbability(d *caddyfile.Dispenser, raw string) error {
	p, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return d.Errf("fault %s: reading probability: %w", h.Kind, err)
	}
	h.Probability = &p
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// parseDuration refuses what would mean the default.
func parseDuration(raw string) (caddy.Duration, error) {
	v, err := caddy.ParseDuration(raw)
	if err == nil && v <= 0 {
		err = fmt.Errorf("%v is not more than nothing: leave it out for the default", time.Duration(v))
	}
	return caddy.Duration(v), err
}

// parseSize refuses what would mean the default.
func parseSize(raw string) (int64, error) {
	v, err := humanize.ParseBytes(raw)
	if err == nil && (v == 0 || v > math.MaxInt64) {
		err = fmt.Errorf("%s is not a size from 1 byte to 8 EiB: leave it out for the default", raw)
	}
	if err != nil {
		return 0, err
	}
	return int64(v), nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
