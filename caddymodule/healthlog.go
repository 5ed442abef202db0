// SPDX-License-Identifier: Apache-2.0

// What is told when an origin's state changes: a log line, an event, a metric.

package caddymodule

import (
	"fmt"
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

// provision takes what is to be done once the whole configuration has started.
func (l *healthLog) provision(ctx caddy.Context, m *metrics, started func()) error {
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
	if err := events.On("started", &onStarted{started}); err != nil {
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
	if len(events) > 0 {
		s.gateOn()
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

// Hints of transitions. The ones about orders name the calls of the admin API.
const (
	hintShared = "The fault is not one upstream's: look at what they share, such as a database, a network or a new release. " +
		"No further upstream is ejected. Once half of all attempts fail, retries are limited. The latest fault: "
	hintKept     = "It goes on getting requests although it does worse than the others. max_share of eject sets how many may be out."
	hintTooMany  = "It has not recovered: it gets requests again because too many were out, as after a reload or an order that left fewer upstreams. max_share of eject sets how many may be."
	hintSlow     = "It answers far more slowly than the others: look at its load, its disk and what it waits for."
	hintOrder    = "An operator's order. It is taken back with `curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'`."
	hintTimed    = "An operator's order. Afterwards the upstream returns by trials, or before with `curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'`."
	hintNoneLeft = "With this order no upstream is left, and clients get errors: what operators took out gets nothing, not even as a last resort. Restore one with `curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'`."
)

func changeOf(e health.Transition) change {
	switch {
	case e.Reason == health.ReasonPoolFault && e.Alone:
		return change{"the only upstream left fails", zapcore.ErrorLevel, eventPoolFault, diagnose.Hint(e.Fault)}
	case e.Reason == health.ReasonPoolFault:
		return change{"all upstreams fail alike", zapcore.ErrorLevel, eventPoolFault, hintShared + diagnose.Hint(e.Fault)}
	case e.Reason == health.ReasonPoolRecovered && e.Alone:
		return change{"the only upstream left fails no longer", zapcore.InfoLevel, eventRestored, ""}
	case e.Reason == health.ReasonPoolRecovered:
		return change{"upstreams no longer fail alike", zapcore.InfoLevel, eventRestored, ""}
	case e.Reason == health.ReasonManual:
		return orderOf(e)
	case e.Reason == health.ReasonMaxShare && e.To == e.From:
		return change{"upstream would be ejected, but too many are", zapcore.WarnLevel, "", hintKept}
	case e.Reason == health.ReasonMaxShare:
		return change{"upstream restored", zapcore.WarnLevel, eventRestored, hintTooMany}
	case e.To == health.Ejected:
		return change{"upstream ejected", zapcore.WarnLevel, eventEjected, ejectHint(e)}
	}
	return change{"upstream restored", zapcore.InfoLevel, eventRestored, ""}
}

// orderOf is how an operator's order is told. It is news only if nothing is left.
func orderOf(e health.Transition) change {
	ch := change{"upstream ejected", zapcore.InfoLevel, eventEjected, hintOrder}
	switch e.To {
	case health.Healthy:
		return change{"upstream restored", zapcore.InfoLevel, eventRestored, ""}
	case health.Draining:
		ch.msg, ch.event = "upstream draining", ""
	}
	switch {
	case e.Out == e.Upstreams:
		ch.level, ch.hint = zapcore.WarnLevel, hintNoneLeft
	case !e.Until.IsZero():
		ch.hint = hintTimed
	}
	return ch
}

// ejectHint is what to look at when an origin was ejected.
func ejectHint(e health.Transition) string {
	switch {
	case e.Slow:
		return hintSlow
	case e.Cause != "":
		return diagnose.Hint(e.Fault)
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
