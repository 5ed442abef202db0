// SPDX-License-Identifier: Apache-2.0

// The failover options, in JSON and in the Caddyfile.

package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
	"golang.org/x/net/http/httpguts"

	"github.com/resetguard/caddy-resetguard/failover"
)

// Failover is what to do about faults of upstreams. Whatever is left out has
// its default.
type Failover struct {
	// Whether to leave retries to the proxy, as if there were no guard. Faults
	// are still explained in the log, and the client still gets a well-formed
	// answer. Default: `false`.
	Off bool `json:"off,omitempty"`

	// How often a request is sent at the most, the first time included, each
	// time to an upstream not yet tried while there is one. Default: `4`.
	// Allowed: 1 to 20, or -1 for as many as `within` and the proxy's own
	// `retries` and `try_duration` allow.
	Attempts int `json:"attempts,omitempty"`

	// How long after its arrival a request may still be sent again. Default:
	// `5s`. Allowed: up to 10m.
	Within caddy.Duration `json:"within,omitempty"`

	// How much of a request's body is kept so that it can be sent again.
	Replay *Replay `json:"replay,omitempty"`

	// How much of a response is held back until it is safe to begin answering.
	Hold *Hold `json:"hold,omitempty"`

	// What is done about a response that breaks off after a part of it has
	// reached the client: `on` asks another upstream for the rest, where a
	// strong validator proves what belongs to it; `verify` also fetches other
	// responses again and compares a hash of their beginning; `off` does
	// nothing. Default: `on`.
	Resume string `json:"resume,omitempty"`

	// For how long an upstream may send and take nothing while something is
	// due: the answer, the rest of a body whose length is known, or the taking
	// of an upload. Default: `60s`. Allowed: up to 24h, or -1 for without end.
	Stall caddy.Duration `json:"stall,omitempty"`

	// The request header fields that mark a request as safe to repeat although
	// its method is not. An empty list means none. Default: `Idempotency-Key`
	// and `X-Idempotency-Key`.
	IdempotencyKey []string `json:"idempotency_key,omitzero"`

	// The statuses of an upstream after which another one is tried. An empty
	// list means none. Default: `502`, `503` and `504`.
	RetryStatus []int `json:"retry_status,omitzero"`

	// How many requests are sent again while all upstreams fail alike. Default:
	// 20 % of the requests, and 3 more, in ten seconds.
	Budget *Budget `json:"budget,omitempty"`
}

// Replay bounds what is kept of a request's body. Without it, these are 1 MiB in
// memory and 64 MiB in a file; with it, what is left out is 0.
type Replay struct {
	// How many bytes are kept in memory. Allowed: up to 1 GiB.
	Memory int64 `json:"memory"`

	// How many more bytes are kept in a temporary file. Allowed: up to 1 TiB.
	File int64 `json:"file"`
}

// Hold bounds what is held back of a response. Without it, that is 64 KiB.
type Hold struct {
	// How many bytes of the body are held; 0 holds nothing. Allowed: up to 16
	// MiB.
	Size int64 `json:"size"`

	// How long they are held after the response's header has come. Default:
	// `25ms`. Allowed: up to 10s.
	For caddy.Duration `json:"for,omitempty"`
}

// policy makes of the options what the failover package works with.
func (f *Failover) policy() failover.Policy {
	p := failover.DefaultPolicy()
	if f == nil {
		return p
	}
	if f.Attempts != 0 {
		p.Attempts = f.Attempts
	}
	if f.Within != 0 {
		p.Within = time.Duration(f.Within)
	}
	if f.Replay != nil {
		p.ReplayMemory, p.ReplayFile = f.Replay.Memory, f.Replay.File
	}
	if f.Hold != nil {
		p.HoldBytes = f.Hold.Size
		if f.Hold.For != 0 {
			p.HoldFor = time.Duration(f.Hold.For)
		}
	}
	if mode, ok := failover.ParseResumeMode(f.Resume); ok {
		p.Resume = mode
	}
	if f.Stall != 0 {
		p.Stall = max(0, time.Duration(f.Stall))
	}
	if f.IdempotencyKey != nil {
		p.IdempotencyKeys = f.IdempotencyKey
	}
	if f.RetryStatus != nil {
		p.RetryStatus = f.RetryStatus
	}
	p.Budget = f.Budget.policy()
	if f.Off {
		p.Off, p.Attempts, p.HoldBytes, p.Resume, p.Stall = true, 1, 0, failover.ResumeOff, 0
	}
	return p
}

// unmarshalCaddyfile reads the block, with the dispenser at its name. Syntax:
//
//	failover off
//	failover {
//	    attempts        <number>
//	    within          <duration>
//	    replay          <memory> [<file>] | off
//	    hold            <size> [<duration>] | off
//	    resume          on | verify | off
//	    stall           <duration> | off
//	    idempotency_key <fields...> | off
//	    retry_status    <codes...> | off
//	    budget          <percent>% [<count>] | off
//	}
func (f *Failover) unmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	block := optionBlock{name: "failover", option: func(opt string) error { return f.unmarshalOption(d, opt) }}
	f.Off, err = block.unmarshal(d)
	return err
}

// failoverValues are the options of failover and what they take.
var failoverValues = map[string]string{
	"attempts":        "a number, such as 4",
	"within":          "a duration, such as 5s",
	"replay":          "a size in memory and one in a file, such as 1MiB 64MiB, or 'off'",
	"hold":            "a size and a duration, such as 64KiB 25ms, or 'off'",
	"resume":          "on, verify or off",
	"stall":           "a duration, such as 60s, or 'off'",
	"idempotency_key": "names of header fields, or 'off'",
	"retry_status":    "statuses, such as 502 503 504, or 'off'",
	"budget":          "a share of the requests and a count, such as 20% 3, or 'off'",
}

func (f *Failover) unmarshalOption(d *caddyfile.Dispenser, opt string) error {
	args := d.RemainingArgs()
	if takes, known := failoverValues[opt]; known && len(args) == 0 {
		return d.Errf("%s needs a value: %s", opt, takes)
	}
	off := len(args) == 1 && args[0] == "off"
	switch opt {
	case "attempts":
		return parseAttempts(d, args, &f.Attempts)
	case "within":
		return parseDuration(d, opt, args, failover.MaxWithin, &f.Within)
	case "replay":
		return f.unmarshalReplay(d, args, off)
	case "hold":
		return f.unmarshalHold(d, args, off)
	case "resume":
		return f.unmarshalResume(d, args)
	case "stall":
		if off {
			f.Stall = -1
			return nil
		}
		return parseDuration(d, opt, args, failover.MaxStall, &f.Stall)
	case "idempotency_key":
		return f.unmarshalKeys(d, args, off)
	case "retry_status":
		return f.unmarshalStatus(d, args, off)
	}
	if opt == "budget" {
		return f.unmarshalBudget(d, args, off)
	}
	return d.Errf("unknown option '%s' of failover: allowed are attempts, within, replay, hold, resume, stall, idempotency_key, retry_status and budget", opt)
}

func (f *Failover) unmarshalReplay(d *caddyfile.Dispenser, args []string, off bool) error {
	f.Replay = new(Replay)
	if off {
		return nil
	}
	if len(args) > 2 {
		return d.Errf("replay takes a size in memory and a size in a file, got %d values", len(args))
	}
	if err := parseSize(d, "replay", args[0], failover.MaxReplayMemory, &f.Replay.Memory); err != nil {
		return err
	}
	f.Replay.File = failover.DefaultReplayFile
	if len(args) == 2 {
		return parseSize(d, "replay", args[1], failover.MaxReplayFile, &f.Replay.File)
	}
	return nil
}

func (f *Failover) unmarshalHold(d *caddyfile.Dispenser, args []string, off bool) error {
	f.Hold = new(Hold)
	if off {
		return nil
	}
	if len(args) > 2 {
		return d.Errf("hold takes a size and a duration, got %d values", len(args))
	}
	if err := parseSize(d, "hold", args[0], failover.MaxHoldBytes, &f.Hold.Size); err != nil {
		return err
	}
	f.Hold.For = caddy.Duration(failover.DefaultHoldFor)
	if len(args) == 2 {
		return parseDuration(d, "hold", args[1:], failover.MaxHoldFor, &f.Hold.For)
	}
	return nil
}

func (f *Failover) unmarshalResume(d *caddyfile.Dispenser, args []string) error {
	if _, ok := failover.ParseResumeMode(args[0]); !ok || len(args) != 1 {
		return d.Errf("resume takes 'on', 'verify' or 'off', not '%s'", strings.Join(args, " "))
	}
	f.Resume = args[0]
	return nil
}

// validate checks what the failover package cannot see.
func (f *Failover) validate() error {
	if f == nil || f.Resume == "" {
		return nil
	}
	if _, ok := failover.ParseResumeMode(f.Resume); !ok {
		return fmt.Errorf("resume is %q: allowed are on, verify and off", f.Resume)
	}
	return nil
}

func (f *Failover) unmarshalKeys(d *caddyfile.Dispenser, args []string, off bool) error {
	f.IdempotencyKey = []string{}
	if off {
		return nil
	}
	for _, name := range args {
		if name == "off" || !httpguts.ValidHeaderFieldName(name) {
			return d.Errf("idempotency_key: '%s' is not the name of a header field; allowed are names, or 'off' alone", name)
		}
		name = http.CanonicalHeaderKey(name)
		if slices.Contains(f.IdempotencyKey, name) {
			return d.Errf("idempotency_key: %s is named twice", name)
		}
		f.IdempotencyKey = append(f.IdempotencyKey, name)
	}
	return nil
}

func (f *Failover) unmarshalStatus(d *caddyfile.Dispenser, args []string, off bool) error {
	f.RetryStatus = []int{}
	if off {
		return nil
	}
	for _, arg := range args {
		code, err := strconv.Atoi(arg)
		if err != nil || code < 400 || code > 599 {
			return d.Errf("retry_status: '%s' is not a status from 400 to 599", arg)
		}
		if slices.Contains(f.RetryStatus, code) {
			return d.Errf("retry_status: %d is named twice", code)
		}
		f.RetryStatus = append(f.RetryStatus, code)
	}
	return nil
}

func parseAttempts(d *caddyfile.Dispenser, args []string, dst *int) error {
	if len(args) != 1 {
		return d.Errf("attempts takes one number, got %d values", len(args))
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > failover.MaxAttempts {
		return d.Errf("attempts: '%s' is not a number from 1 to %d", args[0], failover.MaxAttempts)
	}
	*dst = n
	return nil
}

func parseDuration(d *caddyfile.Dispenser, opt string, args []string, longest time.Duration, dst *caddy.Duration) error {
	if len(args) != 1 {
		return d.Errf("%s takes one duration, got %d values", opt, len(args))
	}
	v, err := caddy.ParseDuration(args[0])
	if err != nil || v <= 0 || v > longest {
		return d.Errf("%s: '%s' is not a duration above 0s and up to %s, such as 25ms", opt, args[0], longest)
	}
	*dst = caddy.Duration(v)
	return nil
}

func parseSize(d *caddyfile.Dispenser, opt, arg string, largest uint64, dst *int64) error {
	n, err := humanize.ParseBytes(arg)
	if err != nil || n > largest {
		return d.Errf("%s: '%s' is not a size from 0 to %s, such as 64KiB", opt, arg, humanize.IBytes(largest))
	}
	*dst = int64(n)
	return nil
}
