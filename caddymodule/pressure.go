// SPDX-License-Identifier: Apache-2.0

// Pressure: how short this host is of something, and what follows from it.

package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/health/pressure"
)

// Pressure is from where on this host counts as short of something, and from
// where on it has none left, each as a share of what there is. What is left out
// has its default.
type Pressure struct {
	// Memory, against the limit of the control group and GOMEMLIMIT. Default:
	// 0.85 and 0.95.
	Memory *Threshold `json:"memory,omitempty"`

	// Time in which work waited for a processor. Default: 0.4 and 0.8.
	CPU *Threshold `json:"cpu,omitempty"`

	// File descriptors. Default: 0.75 and 0.92.
	Files *Threshold `json:"files,omitempty"`
}

// Threshold is where pressure begins and where it is full, from 0 to 1. What is
// left out has its default.
type Threshold struct {
	// Where pressure begins.
	Low float64 `json:"low,omitempty"`
	// Where it is full.
	High float64 `json:"high,omitempty"`
}

// config makes of the options what the pressure package works with.
func (p *Pressure) config() pressure.Config {
	c := pressure.DefaultConfig()
	if p == nil {
		return c
	}
	for resource, t := range map[pressure.Resource]*Threshold{
		pressure.Memory: p.Memory, pressure.CPU: p.CPU, pressure.Files: p.Files,
	} {
		if t != nil {
			own := c.Thresholds[resource]
			if t.Low != 0 {
				own.Lo = t.Low
			}
			if t.High != 0 {
				own.Hi = t.High
			}
			c.Thresholds[resource] = own
		}
	}
	return c
}

// unmarshalCaddyfile reads the block, with the dispenser at its name. Syntax:
//
//	pressure {
//	    memory <percent>% <percent>%
//	    cpu    <percent>% <percent>%
//	    files  <percent>% <percent>%
//	}
func (p *Pressure) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("pressure takes a block, not '%s'", d.Val())
	}
	options := map[string]**Threshold{"memory": &p.Memory, "cpu": &p.CPU, "files": &p.Files}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt := d.Val()
		dst, known := options[opt]
		if !known {
			return d.Errf("unknown option '%s' of pressure: allowed are memory, cpu and files", opt)
		}
		if *dst != nil {
			return d.Errf("%s already specified", opt)
		}
		t, err := parseThreshold(d, opt)
		if err != nil {
			return err
		}
		*dst = t
		if d.NextBlock(d.Nesting()) {
			return d.Errf("%s takes no block", opt)
		}
	}
	if *p == (Pressure{}) {
		return d.Err("pressure takes a block with at least one option")
	}
	return nil
}

func parseThreshold(d *caddyfile.Dispenser, opt string) (*Threshold, error) {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return nil, d.Errf("%s takes two shares, where pressure begins and where it is full, such as 85%% 95%%; got %d values", opt, len(args))
	}
	t := new(Threshold)
	for i, dst := range []*float64{&t.Low, &t.High} {
		n, percent := strings.CutSuffix(args[i], "%")
		v, err := strconv.ParseFloat(n, 64)
		if err != nil || !percent || !(v > 0 && v <= 100) {
			return nil, d.Errf("%s: '%s' is not a share above 0%% and up to 100%%, such as 85%%", opt, args[i])
		}
		*dst = v / 100
	}
	if t.Low >= t.High {
		return nil, d.Errf("%s: %s is not below %s", opt, args[0], args[1])
	}
	return t, nil
}

// host is this host's pressure, for all configurations of the process.
type host struct {
	*pressure.Sampler

	mu      sync.Mutex
	last    time.Time
	configs map[int64]pressure.Config // of the running configurations
}

func newHost(now time.Time) *host {
	return &host{Sampler: pressure.New(now), configs: make(map[int64]pressure.Config)}
}

// use makes a configuration's thresholds hold as long as it runs and no newer one
// does: one that takes over may fail to start.
func (h *host) use(generation int64, c pressure.Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configs[generation] = c
	h.Use(h.configs[slices.Max(slices.Collect(maps.Keys(h.configs)))])
}

// drop ends that.
func (h *host) drop(generation int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.configs, generation)
	if len(h.configs) > 0 {
		h.Use(h.configs[slices.Max(slices.Collect(maps.Keys(h.configs)))])
	}
}

// sample reads what is due. While one configuration takes over from another both
// ask for it: nothing is done before the last time is this long ago.
func (h *host) sample(now time.Time, ago time.Duration) (pressure.Transition, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.last) < ago {
		return pressure.Transition{}, false
	}
	h.last = now
	return h.Sample(now)
}

// press samples this host's pressure and hands it to the gates of the sites, until ctx ends.
func (a *App) press(ctx context.Context) {
	ticker := time.NewTicker(pressure.Interval)
	defer ticker.Stop()
	for {
		ago := pressure.Interval / 2
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-a.crowd:
			ago = crowdInterval
		}
		if t, changed := a.registry.host.sample(time.Now(), ago); changed {
			a.tellPressure(t)
		}
		a.spareFiles(time.Now())
		p, now := a.registry.host.State().P, time.Now()
		for _, s := range a.order {
			if r := s.roster.Load(); r != nil && s.gate != nil {
				for _, l := range r.loads {
					l.limiter.Tick(now)
				}
				s.tellLimits(r, now)
				s.gate.SetPressure(p)
				s.refresh(time.Now())
				s.gateOn() // Caddy tells nobody whom its health checks take out
			}
		}
	}
}

// tellPressure writes a change of level.
func (a *App) tellPressure(t pressure.Transition) {
	level, msg := zapcore.WarnLevel, "this host is under pressure"
	if t.To < t.From {
		level, msg = zapcore.InfoLevel, "this host's pressure falls"
	}
	if c := a.health.logger.Check(level, msg); c != nil {
		c.Write(
			zap.Stringer("from", t.From),
			zap.Stringer("to", t.To),
			zap.Stringer("resource", t.Resource),
			zap.Float64("value", round(t.Value)),
			zap.Float64("pressure", round(t.P)),
			zap.String("doing", doing[t.To]),
			zap.String("hint", diagnose.ShortageHint(t.Resource.String())),
		)
	}
}

// doing is what follows from a level.
var doing = map[pressure.Level]string{
	pressure.Calm:     "nothing",
	pressure.Elevated: "limits of upstreams are enforced, retries are budgeted; with files, idle connections are closed",
	pressure.High:     "limits of upstreams are enforced, background requests are refused, nothing is sent again that counts as a retry",
	pressure.Severe:   "limits of upstreams are enforced, background and sheddable requests are refused, connections close after an answer, no body is held or kept",
	pressure.Critical: "only critical requests are sure to be served",
}

// tellSources lists once what cannot be read here, and so counts for nothing.
func (a *App) tellSources() {
	var missing []string
	for _, s := range a.registry.host.Sources() {
		if s.Availability != pressure.OK {
			missing = append(missing, fmt.Sprintf("%s (%s)", s.Source, s.Availability))
		}
	}
	if len(missing) > 0 {
		a.health.logger.Info("pressure of this host: some sources cannot be read here", zap.Strings("missing", missing))
	}
}

// short tells that so little memory is left that none is spent on what can be
// left undone: holding answers, keeping bodies.
func (a *App) short() bool {
	return !a.registry.host.State().Optional() || a.registry.host.Pressure(pressure.Memory) >= shortMemory
}

// shortMemory is the pressure of memory at which that begins, before any other
// action: what is held now is still held a while.
const shortMemory = 0.5
