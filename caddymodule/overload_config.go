// SPDX-License-Identifier: Apache-2.0

// The overload options, in JSON and in the Caddyfile.

package caddymodule

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// Overload is how many requests upstreams get: as many as they can work on, which
// is found out for each. When all are full a request waits shortly, and is
// refused then.
type Overload struct {
	// Whether to limit nothing and to find out nothing. Default: `false`.
	Off bool `json:"off,omitempty"`

	// `auto` limits an upstream only while there is evidence of overload,
	// `enforce` always, `observe` never, but counts what would have been
	// refused. Default: `auto`.
	Mode string `json:"mode,omitempty"`

	// How long a request may wait for room. Negative for not at all. Default and
	// longest: `100ms`.
	Queue caddy.Duration `json:"queue,omitempty"`

	// Which requests are more or less important than others. The first entry
	// that matches counts.
	Priorities []Priority `json:"priorities,omitempty"`

	// Programs on the upstreams' hosts that say whether these are to get
	// requests, and how many. Default: none is asked.
	Agent *Agent `json:"agent,omitempty"`
}

// Agent is how the upstreams' agents are asked. They speak HAProxy's agent-check
// protocol. Those of unix sockets, and of sites where an address depends on the
// request, are not asked.
type Agent struct {
	// The TCP port at which an agent listens on each upstream's host.
	Port int `json:"port"`

	// How often each agent is asked, from `500ms` to `5m`. Default: `2s`.
	Interval caddy.Duration `json:"interval,omitempty"`
}

const (
	defaultAgentInterval = 2 * time.Second
	leastAgentInterval   = 500 * time.Millisecond
	mostAgentInterval    = 5 * time.Minute
	maxPort              = 1<<16 - 1
)

// provision checks the options. It returns them with defaults; nil for none.
func (a *Agent) provision() (*Agent, error) {
	if a == nil {
		return nil, nil
	}
	b := *a
	if b.Port < 1 || b.Port > maxPort {
		return nil, fmt.Errorf("agent: the port is %d: allowed are 1 to %d", b.Port, maxPort)
	}
	if b.Interval == 0 {
		b.Interval = caddy.Duration(defaultAgentInterval)
	}
	if i := time.Duration(b.Interval); i < leastAgentInterval || i > mostAgentInterval {
		return nil, fmt.Errorf("agent: the interval is %s: allowed are %s to %s", i, leastAgentInterval, mostAgentInterval)
	}
	return &b, nil
}

// Priority gives requests a class.
type Priority struct {
	// `critical`, `default`, `sheddable` or `background`.
	Class string `json:"class"`

	// Which requests are of this class.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
}

// priority is a Priority that is ready for use.
type priority struct {
	class    concurrency.Class
	matchers caddyhttp.MatcherSets
}

const classNames = "critical, default, sheddable and background"

var modes = map[string]concurrency.Mode{
	"": concurrency.Auto, "auto": concurrency.Auto, "observe": concurrency.Observe, "enforce": concurrency.Enforce,
}

// provision sets the site up, and loads the matchers.
func (o *Overload) provision(ctx caddy.Context, s *site) error {
	if o == nil {
		o = new(Overload)
	}
	if o.Off {
		return nil
	}
	mode, ok := modes[o.Mode]
	if !ok {
		return fmt.Errorf("overload: the mode is %q: allowed are observe, auto and enforce", o.Mode)
	}
	p := concurrency.Policy{Mode: mode, Queue: concurrency.LongestQueue}
	if o.Queue != 0 {
		p.Queue = max(0, time.Duration(o.Queue))
	}
	for i := range o.Priorities {
		if err := o.Priorities[i].provision(ctx, s); err != nil {
			return err
		}
		p.Reserve = p.Reserve || s.priorities[i].class == concurrency.Critical
	}
	if err := p.Validate(); err != nil {
		return fmt.Errorf("overload: %w", err)
	}
	agent, err := o.Agent.provision()
	if err != nil {
		return fmt.Errorf("overload: %w", err)
	}
	s.agent = agent
	s.overload = &p
	return nil
}

func (p *Priority) provision(ctx caddy.Context, s *site) error {
	class, ok := concurrency.ParseClass(p.Class)
	if !ok {
		return fmt.Errorf("overload: the class is %q: allowed are %s", p.Class, classNames)
	}
	if len(p.MatchRaw) == 0 {
		return fmt.Errorf("overload: the class %s has no matcher: say which requests belong to it", p.Class)
	}
	mods, err := ctx.LoadModule(p, "MatchRaw")
	if err != nil {
		return fmt.Errorf("overload: loading the matchers of class %s: %w", p.Class, err)
	}
	ready := priority{class: class}
	if err := ready.matchers.FromInterface(mods); err != nil {
		return fmt.Errorf("overload: class %s: %w", p.Class, err)
	}
	s.priorities = append(s.priorities, ready)
	return nil
}

// unmarshalCaddyfile reads the block, with the dispenser at its name. Syntax:
//
//	overload off
//	overload {
//	    mode     observe | auto | enforce
//	    queue    <duration> | off
//	    priority <class> <matcher>
//	    agent    <port> [<interval>]
//	}
func (o *Overload) unmarshalCaddyfile(d *caddyfile.Dispenser, h httpcaddyfile.Helper) (err error) {
	block := optionBlock{name: "overload", often: []string{"priority"}, option: func(opt string) error {
		return o.unmarshalOption(d, h, opt)
	}}
	o.Off, err = block.unmarshal(d)
	return err
}

func (o *Overload) unmarshalOption(d *caddyfile.Dispenser, h httpcaddyfile.Helper, opt string) error {
	if opt == "priority" {
		return o.unmarshalPriority(d, h)
	}
	args := d.RemainingArgs()
	switch opt {
	case "mode":
		switch len(args) {
		case 0:
			return d.Err("mode needs a value: observe, auto or enforce")
		case 1:
		default:
			return d.Errf("mode takes one value, got %d", len(args))
		}
		if _, ok := modes[args[0]]; !ok || args[0] == "" {
			return d.Errf("mode: '%s' is none: allowed are observe, auto and enforce", args[0])
		}
		o.Mode = args[0]
		return nil
	case "queue":
		if len(args) == 0 {
			return d.Err("queue needs a value: a duration, such as 100ms, or 'off'")
		}
		if len(args) == 1 && args[0] == "off" {
			o.Queue = -1
			return nil
		}
		return parseDuration(d, opt, args, concurrency.LongestQueue, &o.Queue)
	case "agent":
		return o.unmarshalAgent(d, args)
	}
	return d.Errf("unknown option '%s' of overload: allowed are mode, queue, priority and agent", opt)
}

// unmarshalAgent reads a port and perhaps an interval.
func (o *Overload) unmarshalAgent(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return d.Errf("agent takes a port and perhaps an interval, such as agent 9001 2s; got %d values", len(args))
	}
	port, err := strconv.Atoi(args[0])
	if err != nil || port < 1 || port > maxPort {
		return d.Errf("agent: '%s' is not a port from 1 to %d", args[0], maxPort)
	}
	o.Agent = &Agent{Port: port}
	if len(args) == 1 {
		return nil
	}
	every, err := caddy.ParseDuration(args[1])
	if err != nil || every < leastAgentInterval || every > mostAgentInterval {
		return d.Errf("agent: '%s' is not an interval from %s to %s, such as 2s", args[1], leastAgentInterval, mostAgentInterval)
	}
	o.Agent.Interval = caddy.Duration(every)
	return nil
}

// unmarshalPriority reads a class and a matcher: a path, or a named one.
func (o *Overload) unmarshalPriority(d *caddyfile.Dispenser, h httpcaddyfile.Helper) error {
	if !d.NextArg() {
		return d.Errf("priority needs a class and a matcher, such as critical @checkout; classes are %s", classNames)
	}
	p := Priority{Class: d.Val()}
	if _, ok := concurrency.ParseClass(p.Class); !ok {
		return d.Errf("priority: '%s' is no class: allowed are %s", p.Class, classNames)
	}
	if !d.NextArg() {
		return d.Errf("priority %s needs a matcher, such as @checkout or /checkout/*", p.Class)
	}
	name := d.Val()
	one := caddyfile.NewDispenser([]caddyfile.Token{d.Token()})
	set, ok, err := h.WithDispenser(one).MatcherToken()
	switch {
	case err != nil:
		return d.Errf("priority %s: %w", p.Class, err)
	case !ok || len(set) == 0:
		return d.Errf("priority %s: '%s' is no matcher: name one, such as @checkout, or a path, such as /checkout/*", p.Class, strings.TrimSpace(name))
	case d.NextArg():
		return d.Errf("priority %s takes one matcher, not also '%s'", p.Class, d.Val())
	}
	p.MatchRaw = caddyhttp.RawMatcherSets{set}
	o.Priorities = append(o.Priorities, p)
	return nil
}
