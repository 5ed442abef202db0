// SPDX-License-Identifier: Apache-2.0

// Idle connections: what is learned of them, and which are not used again.

package caddymodule

import (
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/health"
)

// maxShunned is how many idle connections one attempt may throw away before it
// takes what it gets: more than Caddy keeps for an upstream by default.
const maxShunned = 64

// shun throws away a connection that was idle for longer than the upstream is
// known to keep one, before anything is sent on it. net/http then fails the round
// trip, or takes another connection by itself, with the same reader of the body if
// it was not read: so that one must not end with this connection.
func (a *attempt) shun(v *connView) {
	if !v.reused || v.multiplexed || a.member == nil || a.shunned >= maxShunned || a.transport.policy.Off {
		return
	}
	daring := a.ex.Idempotent() && a.ex.spool == nil
	if a.member.KeepAlive().Reusable(v.idle, daring, a.began) {
		return
	}
	a.shunned++
	v.shunned = true
	_ = v.conn.Close()
}

// send makes the round trip, again for each connection that was shunned.
func (a *attempt) send() (*http.Response, error) {
	inner := a.transport.inner
	res, err := inner.RoundTrip(a.out)
	for err != nil && a.wasShunned() && a.reopen() {
		res, err = inner.RoundTrip(a.out)
	}
	return res, err
}

// wasShunned tells that the round trip failed by our own doing, and nothing was
// sent.
func (a *attempt) wasShunned() bool {
	v := a.view.Load()
	return v != nil && v.shunned && v.conn.Sent() == v.sent && a.client.Err() == nil
}

// reopen gives the request its body from the first byte again.
func (a *attempt) reopen() bool {
	if a.ex.spool == nil {
		return true
	}
	if _, ours := a.out.Body.(*attemptBody); !ours || !a.ex.whole() {
		return false
	}
	body, err := a.openBody()
	if err != nil {
		return false
	}
	out := *a.out // net/http may still hold the one before
	out.Body = body
	if len(out.Trailer) > 0 {
		out.Trailer = body.Trailer()
	}
	a.out = &out
	return true
}

// learn takes down what an attempt shows of idle connections.
func (a *attempt) learn(f *health.Fault, v *connView) {
	if v == nil || !v.reused || v.idle <= 0 || v.multiplexed || v.shunned || a.member == nil {
		return
	}
	switch k, now := a.member.KeepAlive(), time.Now(); {
	case f == nil:
		k.Survived(v.idle, now)
	case isForgotten(f) && k.Failed(v.idle, now):
		a.transport.site.tellIdleLimit(a.member, v.idle, now)
	}
}

// isForgotten tells that the fault may come from the connection's having been
// idle: it ended before any byte of an answer, or nobody was there any more.
func isForgotten(f *health.Fault) bool {
	switch f.Cause {
	case health.Reset, health.Closed:
		return f.Phase == health.PhaseStale
	case health.Timeout:
		return f.Reused && f.Received == 0 && (f.Phase == health.PhaseWait || f.Phase == health.PhaseWrite)
	}
	return false
}

const (
	hintIdleLimit = "The upstream, or a firewall before it, gives up idle connections earlier than the proxy. Let it keep them for longer than `keepalive` in `transport http` (2m by default), or set `keepalive` below its limit. If its fault lines say timeout, first see whether it hung."
	hintNoReuse   = "Connections used again after a short pause were lost. If the fault lines say timeout, look at the upstream first: it hangs or is cut off. If they say reset or closed, set `keepalive off` in `transport http`."
)

// tellIdleLimit writes the line about an upstream whose limit has been learned.
// What is learned about it later is not told.
func (s *site) tellIdleLimit(m *health.Member, idle time.Duration, now time.Time) {
	c := s.app.health.logger.Check(zapcore.WarnLevel, "upstream gives up idle connections")
	if c == nil {
		return
	}
	limit, _ := m.KeepAlive().Limit(now)
	hint := hintIdleLimit
	if limit == 0 {
		hint = hintNoReuse
	}
	c.Write(
		zap.String("zone", clip(s.label())),
		zap.String("upstream", clip(m.Addr())),
		zap.Duration("idle", idle),
		zap.Duration("idle_limit", limit),
		zap.String("hint", hint),
	)
}
