// SPDX-License-Identifier: Apache-2.0

// The eject and budget options, in JSON and in the Caddyfile.

package caddymodule

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// Eject is when and for how long upstreams that fail more than the others get no
// requests. Whatever is left out has its default.
type Eject struct {
	// Whether to eject no upstream. Health still weighs in the choice. Default:
	// `false`.
	Off bool `json:"off,omitempty"`

	// How long the first ejection lasts; each one that follows at once lasts
	// twice as long. Default: `5s`. Allowed: up to 24h.
	Base caddy.Duration `json:"base,omitempty"`

	// The longest ejection. Default: `60s`, or `base` if that is longer.
	// Allowed: up to 24h.
	Max caddy.Duration `json:"max,omitempty"`

	// Which share of the upstreams may be ejected at the same time, from above 0
	// to 1; one of two or more always may. Default: `0.5`.
	MaxShare float64 `json:"max_share,omitempty"`

	// How long an upstream that returns takes to get all of its share again.
	// Negative for at once. Default: `10s`. Allowed: up to 10m.
	SlowStart caddy.Duration `json:"slow_start,omitempty"`
}

// policy makes of the options what the health package works with.
func (e *Eject) policy() health.EjectPolicy {
	p := health.DefaultEjectPolicy()
	if e == nil {
		return p
	}
	p.Off = e.Off
	if e.Base != 0 {
		p.Base = time.Duration(e.Base)
		p.Max = max(p.Max, p.Base)
	}
	if e.Max != 0 {
		p.Max = time.Duration(e.Max)
	}
	if e.MaxShare != 0 {
		p.MaxShare = e.MaxShare
	}
	if e.SlowStart != 0 {
		p.SlowStart = max(0, time.Duration(e.SlowStart))
	}
	return p
}

// unmarshalCaddyfile reads the block, with the dispenser at its name. Syntax:
//
//	eject off
//	eject {
//	    base       <duration>
//	    max        <duration>
//	    max_share  <percent>%
//	    slow_start <duration> | off
//	}
func (e *Eject) unmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	last := d.Token() // of the lines of base and max, of which the later one is told
	block := optionBlock{name: "eject", option: func(opt string) error {
		if opt == "base" || opt == "max" {
			last = d.Token()
		}
		return e.unmarshalOption(d, opt)
	}}
	if e.Off, err = block.unmarshal(d); err != nil {
		return err
	}
	if p := e.policy(); p.Base > p.Max {
		at := caddyfile.NewDispenser([]caddyfile.Token{last})
		at.Next()
		return at.Errf("base is %s%s, which is more than max, %s", p.Base, byDefault(e.Base == 0), p.Max)
	}
	return nil
}

func byDefault(yes bool) string {
	if yes {
		return " by default"
	}
	return ""
}

// ejectValues are the options of eject and what they take.
var ejectValues = map[string]string{
	"base":       "a duration, such as 5s",
	"max":        "a duration, such as 60s",
	"max_share":  "a share in percent, such as 50%",
	"slow_start": "a duration, such as 10s, or 'off'",
}

func (e *Eject) unmarshalOption(d *caddyfile.Dispenser, opt string) error {
	args := d.RemainingArgs()
	if takes, known := ejectValues[opt]; known && len(args) == 0 {
		return d.Errf("%s needs a value: %s", opt, takes)
	}
	switch opt {
	case "base":
		return parseDuration(d, opt, args, health.MaxEjectDuration, &e.Base)
	case "max":
		return parseDuration(d, opt, args, health.MaxEjectDuration, &e.Max)
	case "max_share":
		if len(args) != 1 {
			return d.Errf("max_share takes one share, got %d values", len(args))
		}
		return parsePercent(d, opt, args[0], &e.MaxShare)
	case "slow_start":
		if len(args) == 1 && args[0] == "off" {
			e.SlowStart = -1
			return nil
		}
		return parseDuration(d, opt, args, health.MaxSlowStart, &e.SlowStart)
	}
	return d.Errf("unknown option '%s' of eject: allowed are base, max, max_share and slow_start", opt)
}

// parsePercent reads a share above 0 as in 50%.
func parsePercent(d *caddyfile.Dispenser, opt, arg string, dst *float64) error {
	n, percent := strings.CutSuffix(arg, "%")
	v, err := strconv.ParseFloat(n, 64)
	if err != nil || !percent || !(v > 0 && v <= 100) {
		instead := ""
		switch {
		case err != nil || percent:
		case v > 0 && v < 1:
			instead = fmt.Sprintf(": write %.6g%%", 100*v)
		case v > 1 && v <= 100:
			instead = fmt.Sprintf(": write %s%%", n)
		}
		return d.Errf("%s: '%s' is not a share above 0%% and up to 100%%, such as 50%%%s", opt, arg, instead)
	}
	*dst = v / 100
	return nil
}

// Budget bounds retries while too much is going on: while all upstreams fail
// alike. Attempts of which no upstream got a byte are free, two for a request.
type Budget struct {
	// Which share of the requests of the last ten seconds may be sent again,
	// from 0 to 1.
	Share float64 `json:"share"`

	// How many more retries there may be in ten seconds. Allowed: up to a
	// million.
	Count int `json:"count"`
}

func (b *Budget) policy() failover.BudgetPolicy {
	if b == nil {
		return failover.DefaultBudgetPolicy()
	}
	return failover.BudgetPolicy{Share: b.Share, Count: b.Count}
}

// unmarshalBudget reads `budget <percent>% <count> | off`.
func (f *Failover) unmarshalBudget(d *caddyfile.Dispenser, args []string, off bool) error {
	f.Budget = new(Budget)
	if off {
		return nil
	}
	if len(args) > 2 {
		return d.Errf("budget takes a share and a count, got %d values", len(args))
	}
	if err := parsePercent(d, "budget", args[0], &f.Budget.Share); err != nil {
		return err
	}
	f.Budget.Count = failover.DefaultBudgetCount
	if len(args) == 1 {
		return nil
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 0 || n > failover.MaxBudgetCount {
		return d.Errf("budget: '%s' is not a number from 0 to %d", args[1], failover.MaxBudgetCount)
	}
	f.Budget.Count = n
	return nil
}
