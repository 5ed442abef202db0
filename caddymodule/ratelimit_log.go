// SPDX-License-Identifier: Apache-2.0

// What is logged of limits: one line for each zone and window, however many were
// refused.

package caddymodule

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// rateWindow is what one line sums up.
const rateWindow = 10 * time.Second

// rateSums is what was known of a zone when its last window ended.
type rateSums struct {
	since  time.Time
	counts map[countKey]uint64
}

type countKey struct {
	class   ratelimit.Class
	level   ratelimit.Level
	outcome ratelimit.Outcome
}

// refusals is what was refused in a window.
type refusals struct {
	refused, would uint64
	worst          countKey // where most were
	most           uint64
	window         time.Duration
	network        netip.Prefix // of which most were; not valid if that is not known
}

// due ends the zone's window if it is time. While one configuration takes over
// from another both ask.
func (z *sharedRates) due(now time.Time, all bool) (r refusals, ok bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	r.window = now.Sub(z.log.since)
	if r.window < rateWindow && !all {
		return r, false
	}
	counts := make(map[countKey]uint64)
	for _, c := range z.Counts() {
		key := countKey{c.Class, c.Level, c.Outcome}
		counts[key] = c.N
		n := c.N - z.log.counts[key]
		switch c.Outcome {
		case ratelimit.Refused:
			r.refused += n
		case ratelimit.WouldRefuse:
			r.would += n
		default:
			continue
		}
		if n > r.most {
			r.worst, r.most = key, n
		}
	}
	z.log = rateSums{since: now, counts: counts}
	r.network, _ = z.WorstLately()
	return r, r.most > 0
}

// checkRateLimits finds limits that nobody keeps: without a zone of their own they
// need a proxy behind them whose selection policy or transport is ours.
func (a *App) checkRateLimits() error {
	for _, l := range a.rateLimiters {
		if l.shared != nil || l.site != nil {
			continue
		}
		if !l.policy.Auto {
			return errLimitsNothing
		}
		a.health.logger.Warn("a handler reset_guard limits nothing", zap.Error(errLimitsNothing))
	}
	return nil
}

var errLimitsNothing = errors.New("rate_limit: there is neither a zone nor a proxy of Reset Guard behind the handler reset_guard: give the option a zone, or the reverse_proxy behind it the selection policy or the transport reset_guard")

// startRateLimits begins what limits need beside requests.
func (a *App) startRateLimits(ctx context.Context) {
	if len(a.rateLimiters) == 0 {
		return
	}
	a.registry.takeOver(a.rateLimiters)
	a.registry.use(a.rateLimiters)
	a.running.Go(func() { a.sumUpRateLimits(ctx) })
	if slices.ContainsFunc(a.rateLimiters, func(l *rateLimiter) bool { return l.policy.CookieLifetime > 0 }) {
		a.running.Go(func() { a.registry.keys.keep(ctx, a.storage, a.health.logger) })
		a.registry.keys.await(firstKeys)
	}
}

// firstKeys is how long a start waits for keys, so that the first visitors are
// known: storage that is there takes milliseconds.
const firstKeys = 300 * time.Millisecond

// sumUpRateLimits writes what was refused, until ctx ends.
func (a *App) sumUpRateLimits(ctx context.Context) {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			a.tellRateLimits(now, false)
		}
	}
}

func (a *App) tellRateLimits(now time.Time, all bool) {
	told := make(map[*sharedRates]bool)
	for _, l := range a.rateLimiters {
		z := l.attached()
		if z == nil || told[z] {
			continue
		}
		told[z] = true
		if r, ok := z.due(now, all); ok {
			a.tellRefusals(l.label(), r)
		}
		a.tellDominant(l.label(), z, now)
	}
}

func (a *App) tellRefusals(zone string, r refusals) {
	msg := "requests refused by limits"
	if r.refused == 0 {
		msg = "requests would be refused by limits"
	}
	fields := []zap.Field{
		zap.String("zone", zone),
		zap.Uint64("refused", r.refused),
		zap.Uint64("would_refuse", r.would),
		zap.Duration("window", r.window),
		zap.Stringer("class", r.worst.class),
		zap.Stringer("budget", r.worst.level),
	}
	if r.network.IsValid() {
		fields = append(fields, zap.String("client_prefix", coarse(r.network).String()))
	}
	a.health.logger.Warn(msg, append(fields, zap.String("hint", rateHint(r.worst.level)))...)
}

// rateHint says in plain words what was refused, and what to look at.
func rateHint(level ratelimit.Level) string {
	switch level {
	case ratelimit.LevelClient:
		return "Most were single clients over their own budget. If they are honest, raise `client`."
	case ratelimit.LevelShare:
		return "Most were clients within their own budget at addresses that have too little for all of theirs. If these are offices or carriers, raise `base` or `per_client`; `client` is not at fault."
	case ratelimit.LevelBin:
		return "Most were clients without a proven cookie that look alike: a script or a bot, or many people with the same browser, keys that have not been confirmed yet, or visitors behind a proxy that `trusted_proxies` does not name. If they are honest, raise `unproven`, of which one look gets a twentieth, or give them an identity."
	case ratelimit.LevelAddress:
		return "Most came from addresses whose clients together are over their budget. Proven clients make it bigger; `GET /reset_guard/limits` on the admin endpoint shows how many there are. If it is an office or a carrier, raise `base` or `per_client` for its proven clients, `unproven` for others, or exempt it by a matcher; if it is a proxy of yours, name it in `trusted_proxies`."
	case ratelimit.LevelSite:
		return "Most came from one network (/24, or /56 and /48 of IPv6), which may be rotating through its addresses. Nothing to do, unless you know it: then raise `unproven` or `base`, give its clients an identity, or exempt it by a matcher."
	case ratelimit.LevelUnproven:
		return "There is more traffic without a proven cookie than upstreams can take beside the others: an attack from many addresses, or a crowd of new visitors."
	}
	return "The upstreams, or this host, cannot do more: those least known were refused first. More capacity is what helps; `client` limits the greediest."
}

const hintDominant = "Nearly all requests come from this one address, which is private: most likely a proxy or load balancer in front. Name it in the global option `servers { trusted_proxies static ... }`, with `trusted_proxies_strict` if it adds to X-Forwarded-For, so that its clients can be told apart; until then they share the limits of one address."

// tellDominant says, once for each zone, that a proxy is probably not trusted.
func (a *App) tellDominant(zone string, z *sharedRates, now time.Time) {
	d := z.Dominant(now)
	if d == nil || !d.Private() || !z.warned.CompareAndSwap(false, true) {
		return
	}
	a.health.logger.Warn("nearly all requests come from one address",
		zap.String("zone", zone),
		// In full, for it is to be named and is nobody's: a private address.
		zap.String("client_prefix", d.Prefix.String()),
		zap.Float64("share", round(d.Share)),
		zap.String("hint", hintDominant))
}

// coarse is the network that logs name: the /24 or the /48, for addresses are
// personal.
func coarse(p netip.Prefix) netip.Prefix {
	bits := 48
	if p.Addr().Is4() {
		bits = 24
	}
	wide, err := p.Addr().Prefix(min(bits, p.Bits()))
	if err != nil {
		return netip.Prefix{}
	}
	return wide
}
