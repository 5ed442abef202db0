// SPDX-License-Identifier: Apache-2.0

// Idle connections: what is learned of them, and which are not used again.

package caddymodule

import (
	"hash/maphash"
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
	if a.transport.onlyHTTP3 {
		if err := fitForHTTP3(a.out); err != nil {
			return nil, err
		}
	}
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

// learn takes down what an attempt shows of idle connections. That one was lost
// shows nothing until it is proven that the request was not why: none of it was
// sent, or the same was answered on a fresh connection. For a request that is sent
// again that tells with its next attempt; for one that is not, with the next
// request for the same, or with others that are lost alike.
func (a *attempt) learn(f *health.Fault, v *connView, now time.Time) {
	if v == nil || v.multiplexed || v.shunned || a.member == nil {
		return
	}
	switch {
	case f == nil && !v.reused:
		a.clearSuspects(now)
	case f == nil && v.idle > 0:
		a.member.KeepAlive().Survived(v.idle, now)
	case f == nil: // it was reused at once, which shows nothing
	case !v.reused && isUnanswered(f) && a.member.KeepAlive().Suspected():
		a.member.KeepAlive().Refuted(targetOf(a.out), now)
	case v.reused && v.idle > 0 && isForgotten(f):
		a.lost(f, v.idle, now)
	}
}

// lost notes that the request was lost on a connection that had been idle.
func (a *attempt) lost(f *health.Fault, idle time.Duration, now time.Time) {
	k := a.member.KeepAlive()
	l := health.Loss{Idle: idle, Took: f.Elapsed, Client: clientHash(a.out), Target: targetOf(a.out)}
	learned := false
	if f.Safety != health.Unsent || f.Cause == health.Timeout {
		idle, learned = k.Suspect(l, now)
	} else {
		learned = k.Failed(l, now)
	}
	if learned {
		a.transport.site.tellIdleLimit(a.member, idle, now)
	}
}

// clearSuspects tells that the request was answered on a fresh connection, by this
// upstream and, after others had lost it, on their behalf: it breaks none.
func (a *attempt) clearSuspects(now time.Time) {
	a.clearSuspectsOf(a.member, now)
	for _, m := range a.ex.triedMembers {
		a.clearSuspectsOf(m, now)
	}
}

func (a *attempt) clearSuspectsOf(m *health.Member, now time.Time) {
	if !m.KeepAlive().Suspected() {
		return
	}
	if idle, learned := m.KeepAlive().Answered(targetOf(a.out), now); learned {
		a.transport.site.tellIdleLimit(m, idle, now)
	}
}

// targetOf stands for what a request asks for. It leaves out the host, which may
// differ between the upstreams that get the same request, and the query, in which
// the same may be asked for in countless ways.
func targetOf(r *http.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(clientSeed)
	_, _ = h.WriteString(r.Method)
	_ = h.WriteByte(' ')
	_, _ = h.WriteString(r.URL.Path)
	return h.Sum64()
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

// isUnanswered tells that a request on a fresh connection was lost as one on an idle
// connection might be.
func isUnanswered(f *health.Fault) bool {
	return f.Side != health.SideClient && f.Safety == health.IfIdempotent && f.Received <= 0 &&
		(f.Phase == health.PhaseWait || f.Phase == health.PhaseWrite)
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
