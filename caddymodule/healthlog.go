// SPDX-License-Identifier: Apache-2.0

// What is told when an origin's state changes: a log line, an event, a metric.

package caddymodule

import (
	"fmt"
	"math"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/health"
)

// The events, for `on` in Caddy's events app. Their data are the log line's
// fields.
const (
	eventEjected   = "reset_guard.ejected"
	eventRestored  = "reset_guard.restored"
	eventPoolFault = "reset_guard.pool_fault"
)

// healthLog writes what changes about origins. Its lines are bounded by what
// they tell: an origin is ejected for seconds at the least.
type healthLog struct {
	logger *zap.Logger
	events *eventQueue
}

func (l *healthLog) provision(ctx caddy.Context, m *metrics) error {
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading Caddy's events app: %w", err)
	}
	events, ok := app.(*caddyevents.App)
	if !ok {
		return fmt.Errorf("the events app is a %T, not Caddy's", app)
	}
	l.logger = ctx.Logger()
	if l.events, err = newEventQueue(ctx, events, m); err != nil {
		return fmt.Errorf("waiting for Caddy to start: %w", err)
	}
	return nil
}

// tell writes, counts and emits what has changed.
func (s *site) tell(events []health.Transition) {
	for _, e := range events {
		s.app.health.tell(s.label(), e)
		s.app.registry.metrics.transition(e)
	}
}

// observe counts an outcome and tells what it changed.
func (s *site) observe(m *health.Member, o health.Outcome, now time.Time) {
	s.tell(s.view.Observe(m, o, now))
}

// label names the site's pool where a person reads it.
func (s *site) label() string {
	if s.zone != "" {
		return s.zone
	}
	if r := s.roster.Load(); r != nil && len(r.names) > 0 {
		return r.names[0]
	}
	return ""
}

// change is how a transition is told: the message, how urgent it is, and the
// event that goes out.
type change struct {
	msg   string
	level zapcore.Level
	event string
	hint  string
}

func changeOf(e health.Transition) change {
	switch {
	case e.Reason == health.ReasonPoolFault:
		return change{"all upstreams fail alike", zapcore.ErrorLevel, eventPoolFault,
			"The fault is not one upstream's: look at what they share, such as a database, a network or a new release. Nobody is ejected. Once half of all attempts fail, retries are limited."}
	case e.Reason == health.ReasonPoolRecovered:
		return change{"upstreams no longer fail alike", zapcore.InfoLevel, eventRestored, ""}
	case e.Reason == health.ReasonMaxShare && e.To == e.From:
		return change{"upstream would be ejected, but too many are", zapcore.WarnLevel, "",
			"It goes on getting requests although it fails more often than the others. max_share of eject sets how many may be out."}
	case e.To == health.Ejected:
		return change{"upstream ejected", zapcore.WarnLevel, eventEjected, ejectHint(e)}
	case e.To == health.Draining:
		return change{"upstream draining", zapcore.InfoLevel, "", ""}
	}
	return change{"upstream restored", zapcore.InfoLevel, eventRestored, ""}
}

// ejectHint is what to look at when an origin was ejected.
func ejectHint(e health.Transition) string {
	switch {
	case e.Reason == health.ReasonSlow:
		return "It answers far more slowly than the others: look at its load, its disk and what it waits for."
	case e.Cause != "":
		return diagnose.Hint(health.Fault{Cause: e.Cause, Side: health.SideUpstream})
	}
	return ""
}

func (l *healthLog) tell(zone string, e health.Transition) {
	ch := changeOf(e)
	if c := l.logger.Check(ch.level, ch.msg); c != nil {
		c.Write(transitionFields(zone, e, ch)...)
	}
	if ch.event != "" {
		l.events.put(ch.event, transitionData(zone, e, ch))
	}
}

func transitionFields(zone string, e health.Transition, ch change) []zap.Field {
	fields := []zap.Field{
		zap.String("zone", clip(zone)),
		zap.String("upstream", clip(e.Addr)),
		zap.Stringer("from", e.From),
		zap.Stringer("to", e.To),
		zap.String("reason", string(e.Reason)),
		zap.Float64("failure_rate", round(e.Rate)),
		zap.Float64("peers_failure_rate", round(e.Peers)),
		zap.Int("requests", e.Requests),
		zap.Float64("score", round(e.Score)),
	}
	if e.Cause != "" {
		fields = append(fields, zap.String("cause", string(e.Cause)))
	}
	if e.Level > 0 {
		fields = append(fields, zap.Int("times", e.Level))
	}
	if !e.Until.IsZero() {
		fields = append(fields, zap.Time("until", e.Until))
	}
	if ch.hint != "" {
		fields = append(fields, zap.String("hint", ch.hint))
	}
	return fields
}

func transitionData(zone string, e health.Transition, ch change) map[string]any {
	data := map[string]any{
		"zone": zone, "upstream": e.Addr, "from": e.From.String(), "to": e.To.String(),
		"reason": string(e.Reason), "cause": string(e.Cause),
		"failure_rate": round(e.Rate), "peers_failure_rate": round(e.Peers),
		"requests": e.Requests, "score": round(e.Score), "times": e.Level, "hint": ch.hint,
	}
	if !e.Until.IsZero() {
		data["until"] = e.Until.UTC().Format(time.RFC3339)
	}
	return data
}

// round to three digits, which is more than the figures are worth.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
