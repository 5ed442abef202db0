// SPDX-License-Identifier: Apache-2.0

// Stalls: an upstream that has stopped sending, or taking, what is due.

package caddymodule

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// errStalled ends an attempt at which nothing happens any more.
var errStalled = stalledError{}

type stalledError struct{}

func (stalledError) Error() string {
	return "the upstream has sent and taken nothing for as long as stall allows"
}
func (stalledError) Timeout() bool   { return true }
func (stalledError) Temporary() bool { return true }

// stallTicks is how often a watchdog looks within the time allowed. A stall is
// noticed at most one of these parts too late, and never too early.
const stallTicks = 4

// watchdog ends an attempt when nothing has happened for too long although
// something was due. It holds its lock while it looks at the attempt; dismissed,
// it looks no more, so that the attempt can be used again.
type watchdog struct {
	at int // place in the kennel's list, which guards it

	mu    sync.Mutex
	a     *attempt // nil: not on duty
	still int      // how often in a row nothing had happened; -1: not looked yet
	seen  progress
}

// kennel has one timer for all watchdogs of a transport. One for each request
// would cost some four microseconds: to set a timer wakes a thread that is to wait
// for it.
type kennel struct {
	every time.Duration
	idle  sync.Pool

	mu     sync.Mutex
	onDuty []*watchdog // bounded by the attempts under way
	timer  *time.Timer // runs while somebody is on duty
}

// newKennel makes the watchdogs of a transport that allows stalls up to limit.
func newKennel(limit time.Duration) *kennel {
	return &kennel{every: limit / stallTicks, idle: sync.Pool{New: func() any { return new(watchdog) }}}
}

// send sets a watchdog on an attempt.
func (k *kennel) send(a *attempt) *watchdog {
	w := k.idle.Get().(*watchdog)
	w.mu.Lock()
	w.a, w.still, w.seen = a, -1, progress{}
	w.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	w.at = len(k.onDuty)
	if k.onDuty = append(k.onDuty, w); k.timer == nil {
		k.timer = time.AfterFunc(k.every, k.round)
	}
	return w
}

// recall takes a watchdog off its attempt.
func (k *kennel) recall(w *watchdog) {
	k.mu.Lock()
	last := len(k.onDuty) - 1
	k.onDuty[w.at] = k.onDuty[last]
	k.onDuty[w.at].at = w.at
	k.onDuty[last] = nil
	k.onDuty = k.onDuty[:last]
	k.mu.Unlock()
	w.mu.Lock()
	w.a = nil
	w.mu.Unlock()
	k.idle.Put(w)
}

// round lets all look, and is due again if there are any.
func (k *kennel) round() {
	k.mu.Lock()
	all := slices.Clone(k.onDuty)
	k.mu.Unlock()
	for _, w := range all { // one that has another attempt by now begins with it
		w.look()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.onDuty) == 0 {
		k.timer = nil
		return
	}
	k.timer.Reset(k.every)
}

// progress changes with everything that happens to an attempt.
type progress struct {
	conn           *health.Conn // nil if it is shared or not watched
	sent, received int64
	reads, uploads uint32
	answering      bool
}

// watchStall sets a watchdog on the attempt, unless silence is its nature.
func (a *attempt) watchStall(req *http.Request) {
	if k := a.transport.kennel; k != nil && !expectsSilence(req) {
		a.dog = k.send(a)
	}
}

// expectsSilence tells that the upstream may wait with its answer for as long as
// nothing happens: gRPC and event streams, of which the header often comes with
// the first event, and what is marked as incremental.
func expectsSilence(req *http.Request) bool {
	return isStream(req.Header.Get("Content-Type")) || caddyhttp.IsIncremental(req.Header) ||
		strings.Contains(req.Header.Get("Accept"), "text/event-stream")
}

// dismiss takes the watchdog off. It must be called before the attempt is used
// for anything else.
func (a *attempt) dismiss() {
	w := a.dog
	if w == nil {
		return
	}
	a.dog = nil
	a.transport.kennel.recall(w)
}

// look is called in each round.
func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.a
	if a == nil {
		return
	}
	now := a.progress()
	if w.still++; now != w.seen || !a.isDue(now) {
		w.seen, w.still = now, 0
	}
	if w.still < stallTicks {
		return
	}
	w.a = nil
	a.stalled.Store(true)
	a.breakOff()
}

// progress is looked at from the watchdog's goroutine.
func (a *attempt) progress() progress {
	p := progress{reads: a.reads.Load(), uploads: a.uploads.Load(), answering: a.answering.Load()}
	if v := a.view.Load(); v != nil && v.conn != nil && !v.multiplexed {
		p.conn, p.sent, p.received = v.conn, v.conn.Sent(), v.conn.Received()
	}
	return p
}

// isDue tells whether it is the upstream's turn. It is not while the client is
// waited for: to send its request's body, or to take the answer. Nor is it while
// there is no connection, for which other time-outs hold.
func (a *attempt) isDue(p progress) bool {
	if p.answering {
		return p.reads%2 == 1 && p.uploads%2 == 0
	}
	t := a.transport
	connected := a.view.Load() != nil || !t.watched || t.multiplexes && !t.mayMultiplex
	return connected && p.uploads%2 == 0
}

// breakOff ends the attempt from another goroutine than its own.
func (a *attempt) breakOff() {
	if a.abort != nil {
		a.abort(errStalled)
		return
	}
	if v := a.view.Load(); v != nil && v.conn != nil {
		_ = v.conn.Close()
	}
}

// stoppable gives the attempt a context by which it can be ended, where it has
// no connection of its own that can be closed instead.
func (a *attempt) stoppable(ctx context.Context) context.Context {
	t := a.transport
	switch {
	case a.cancel != nil:
		a.abort = a.cancel
	case t.policy.Stall > 0 && (!t.watched || t.multiplexes):
		ctx, a.abort = context.WithCancelCause(ctx)
	}
	return ctx
}

// watchBody goes on watching within the response's body, if that has an end that
// is due. Of a body without a length nobody knows whether it is a long poll or
// an event stream that has nothing to say.
func (a *attempt) watchBody(res *http.Response) io.ReadCloser {
	if a.dog == nil || a.length < 0 || caddyhttp.IsIncremental(res.Header) || isStream(res.Header.Get("Content-Type")) {
		a.dismiss()
		return res.Body
	}
	a.answering.Store(true)
	a.source = watchedBody{res.Body, a}
	return &a.source
}

// watchedBody tells the watchdog when it is being read.
type watchedBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.attempt.reads.Add(1)
	n, err := b.ReadCloser.Read(p)
	b.attempt.reads.Add(1)
	if err != nil && err != io.EOF && b.attempt.stalled.Load() {
		err = errStalled
	}
	return n, err
}

// limitHandshake gives the TLS handshake the time that stall allows, if the
// operator has set no other.
func limitHandshake(ht *http.Transport, p *failover.Policy) {
	if ht.TLSHandshakeTimeout == 0 {
		ht.TLSHandshakeTimeout = p.Stall
	}
}

// leastUnacked leaves the kernel the time to send a lost packet a few times.
const leastUnacked = 5 * time.Second

// limitUnacked sees to it that a connection for many requests ends when nobody is
// at its other end any more: a stall ends one request, and net/http would give
// the next one the same connection.
func (a *attempt) limitUnacked(c *health.Conn) {
	if limit := a.transport.policy.Stall; limit > 0 {
		c.LimitUnacked(max(limit, leastUnacked))
	}
}
