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
	at int // place among those on duty, guarded by the lock of the list

	mu    sync.Mutex
	a     *attempt // nil: not on duty
	still int      // how often in a row nothing had happened; -1: not looked yet
	seen  progress
}

// watchdogs has one timer for all watchdogs of a transport. One for each request
// would cost some four microseconds: to set a timer wakes a thread that is to wait
// for it.
type watchdogs struct {
	every time.Duration
	idle  sync.Pool

	mu     sync.Mutex
	onDuty []*watchdog // bounded by the attempts under way
	timer  *time.Timer // runs while somebody is on duty
}

// newWatchdogs makes the watchdogs of a transport that allows stalls up to limit.
func newWatchdogs(limit time.Duration) *watchdogs {
	return &watchdogs{every: limit / stallTicks, idle: sync.Pool{New: func() any { return new(watchdog) }}}
}

// watch sets a watchdog on an attempt.
func (d *watchdogs) watch(a *attempt) *watchdog {
	w := d.idle.Get().(*watchdog)
	w.mu.Lock()
	w.a, w.still, w.seen = a, -1, progress{}
	w.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	w.at = len(d.onDuty)
	if d.onDuty = append(d.onDuty, w); d.timer == nil {
		d.timer = time.AfterFunc(d.every, d.lookAll)
	}
	return w
}

// dismiss takes a watchdog off its attempt.
func (d *watchdogs) dismiss(w *watchdog) {
	d.mu.Lock()
	last := len(d.onDuty) - 1
	d.onDuty[w.at] = d.onDuty[last]
	d.onDuty[w.at].at = w.at
	d.onDuty[last] = nil
	d.onDuty = d.onDuty[:last]
	d.mu.Unlock()
	w.mu.Lock()
	w.a = nil
	w.mu.Unlock()
	d.idle.Put(w)
}

// lookAll is called by the timer, which it sets again if any are on duty.
func (d *watchdogs) lookAll() {
	d.mu.Lock()
	all := slices.Clone(d.onDuty)
	d.mu.Unlock()
	for _, w := range all { // one that has another attempt by now begins with it
		w.look()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.onDuty) == 0 {
		d.timer = nil
		return
	}
	d.timer.Reset(d.every)
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
	if d := a.transport.watchdogs; d != nil && !expectsSilence(req) {
		a.dog = d.watch(a)
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
	a.transport.watchdogs.dismiss(w)
}

// look is called stallTicks times within the limit.
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
// is due, or a part of it is. Of a body without a length nobody knows whether it is a
// long poll or an event stream that has nothing to say.
func (a *attempt) watchBody(res *http.Response, due bool) io.ReadCloser {
	if a.dog == nil || a.length < 0 && !due || caddyhttp.IsIncremental(res.Header) || isStream(res.Header.Get("Content-Type")) {
		a.dismiss()
	} else {
		a.answering.Store(true)
	}
	a.source = watchedBody{res.Body, a}
	return &a.source
}

// watchedBody tells when it is being read.
type watchedBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *watchedBody) Read(p []byte) (int, error) {
	a := b.attempt
	if taken := a.taken.Load(); taken != 0 {
		a.delayed.Add(int64(time.Since(a.began)) - taken)
	}
	a.reads.Add(1)
	n, err := b.ReadCloser.Read(p)
	a.reads.Add(1)
	a.taken.Store(int64(time.Since(a.began)))
	if err != nil && err != io.EOF && b.attempt.stalled.Load() {
		err = errStalled
	}
	return n, err
}

// delayedBy is for how long the client did not take what had come, if that is a good
// part of the time: a large download comes to a second now and then.
func (a *attempt) delayedBy() time.Duration {
	const part = 4
	if d := time.Duration(a.delayed.Load()); d >= time.Since(a.began)/part {
		return d
	}
	return 0
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
