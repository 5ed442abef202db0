// SPDX-License-Identifier: Apache-2.0

// Package caddymodule plugs Reset Guard into Caddy: configuration, life cycle,
// logs. What it decides with lies in packages that do not know Caddy.
package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/failover"
)

const appName = "reset_guard"

func init() {
	caddy.RegisterModule(new(App))
	httpcaddyfile.RegisterGlobalOption(appName, parseApp)
}

// App is what all sites of a server share: the fault log, whose rate is bounded
// for all of them together, the bound on request bodies kept at one time, and
// what is known about upstreams. It is loaded when a site needs it and has no
// options.
type App struct {
	// From where on this host counts as short of something.
	Pressure *Pressure `json:"pressure,omitempty"`

	faults  *faultLog
	replay  *failover.SpoolBudget
	health  healthLog
	cancel  context.CancelFunc
	running *sync.WaitGroup
	// pressing is the sampling of this host's pressure, which ends last.
	pressing     *sync.WaitGroup
	stopPressing context.CancelFunc

	// servers are those in which something of ours is used, with their clients'
	// connections. Filled in while modules are provisioned.
	servers map[*caddyhttp.Server]*clientConns
	// unwatch ends the watching of the servers' listeners.
	unwatch []func()
	spare   spare
	// crowd asks for a sample before it is time to, see clientConns.
	crowd chan struct{}

	registry *registry
	acquired bool
	// generation counts configurations.
	generation int64
	// Filled in while modules are provisioned, which Caddy does one by one.
	sites map[*reverseproxy.Handler]*site
	order []*site
	// guarding is the rate limiter of the handler that was provisioned last, as long as
	// no proxy was provisioned after it, which is the one that it stands before.
	guarding     *rateLimiter
	rateLimiters []*rateLimiter
	storage      *keyStore
}

// CaddyModule returns the Caddy module information. It copies nothing: events ask
// for it, while the app may be ending.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// What the request bodies that are kept at one time may take together: with the
// default limits, a hundred uploads in memory and sixty in files. Uploads beyond
// that are passed on without being kept.
const (
	replayMemoryTotal = 128 << 20
	replayFileTotal   = 4 << 30
)

// Provision prepares what is shared.
func (a *App) Provision(ctx caddy.Context) error {
	a.replay = failover.NewSpoolBudget(replayMemoryTotal, replayFileTotal)
	a.faults = &faultLog{logger: ctx.Logger(), burst: diagnose.NewBurst(diagnose.BurstConfig{})}
	a.running, a.pressing = new(sync.WaitGroup), new(sync.WaitGroup)
	a.sites = make(map[*reverseproxy.Handler]*site)
	a.servers, a.crowd = make(map[*caddyhttp.Server]*clientConns), make(chan struct{}, 1)
	registry, err := acquireRegistry()
	if err != nil {
		return fmt.Errorf("acquiring what is known about upstreams: %w", err)
	}
	a.registry, a.acquired = registry, true
	a.generation = registry.generations.Add(1)
	a.storage = &keyStore{keyStorage: ctx.Storage()}
	if err := a.health.provision(ctx, registry.metrics, a.watchListeners); err != nil {
		return err
	}
	return registry.metrics.register(ctx.GetMetricsRegistry(), registry)
}

// Validate checks the options.
func (a *App) Validate() error {
	if err := a.Pressure.config().Validate(); err != nil {
		return fmt.Errorf("pressure: %w", err)
	}
	return nil
}

// Cleanup lets go of what is known about upstreams.
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	// Caddy stops apps in any order: until all have stopped, requests come.
	if a.stopPressing != nil {
		a.stopPressing()
		a.pressing.Wait()
		a.registry.host.drop(a.generation)
	}
	for _, s := range a.order {
		s.closeGate()
	}
	a.acquired = false // the registry stays: slow requests may still be using it
	return releaseRegistry()
}

// summaryInterval is how often suppressed lines are looked for. It is short
// against the window of the bound (10 s), so that a sum comes soon after it.
const summaryInterval = 2 * time.Second

// Start takes up what is known about upstreams, and begins to sum up what the
// fault log leaves out.
func (a *App) Start() error {
	if err := a.checkRateLimits(); err != nil {
		return err
	}
	now := time.Now()
	for _, s := range a.order {
		s.start(now)
	}
	a.tellStillOut(now)
	a.registry.metrics.tidy(now)
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.running.Go(func() { a.sumUp(ctx) })
	a.running.Go(func() { a.probe(ctx) })
	a.startRateLimits(ctx)
	a.registry.host.use(a.generation, a.Pressure.config())
	a.tellSources()
	pressing, cancel := context.WithCancel(context.Background())
	a.stopPressing = cancel
	a.pressing.Go(func() { a.press(pressing) })
	if slices.ContainsFunc(a.order, func(s *site) bool { return s.agent != nil }) {
		a.running.Go(func() { a.watchAgents(ctx) })
	}
	return nil
}

func (a *App) sumUp(ctx context.Context) {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	var sums []diagnose.Summary
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			sums = a.faults.burst.Due(now, sums[:0])
			a.faults.summaries(sums)
		}
	}
}

// Stop gives the upstreams up and writes the last sums.
func (a *App) Stop() error {
	for _, s := range a.order {
		s.stop(time.Now())
	}
	a.health.events.stop()
	a.unwatchListeners()
	if a.cancel == nil {
		return nil
	}
	a.cancel()
	a.running.Wait()
	a.registry.disuse(a.rateLimiters)
	a.tellRateLimits(time.Now(), true)
	a.registry.forgetRates(a.generation)
	a.faults.summaries(a.faults.burst.Flush(time.Now()))
	return nil
}

// loadApp returns what all sites share, to a module of a site.
func loadApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.App(appName)
	if err != nil {
		return nil, fmt.Errorf("loading the app %s: %w", appName, err)
	}
	a := app.(*App)
	a.serverOf(ctx)
	return a, nil
}

// parseApp reads the global option. Syntax:
//
//	{
//	    reset_guard {
//	        pressure {
//	            memory <percent>% <percent>%
//	            cpu    <percent>% <percent>%
//	            files  <percent>% <percent>%
//	        }
//	    }
//	}
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // consume the option's name
	if existing != nil {
		return nil, d.Err("reset_guard already specified")
	}
	if d.NextArg() {
		return nil, d.Errf("the global option reset_guard takes no value, not '%s'", d.Val())
	}
	app := new(App)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch {
		case d.Val() != "pressure":
			return nil, d.Errf("unknown option '%s' of the global option reset_guard: allowed is pressure", d.Val())
		case app.Pressure != nil:
			return nil, d.Err("pressure already specified")
		}
		app.Pressure = new(Pressure)
		if err := app.Pressure.unmarshalCaddyfile(d); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
