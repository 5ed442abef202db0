// SPDX-License-Identifier: Apache-2.0

// One attempt: its request, its view of the body, and what is known of it.

package caddymodule

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// attempt is one round trip to one origin. Its first part belongs to the
// goroutine that serves the request; conn and uploaded are also used by those
// in which net/http sends the body.
type attempt struct {
	ex        *exchange
	transport *Transport
	client    context.Context // the client's request: done when the client is gone
	out       *http.Request
	key       string // the upstream as configured
	upstream  string // the upstream as dialled
	body      failover.Body
	cancel    context.CancelCauseFunc // nil unless the origin may speak HTTP/2
	// refused tells that HTTP/2 gave the request a second connection or stream
	// of the same origin, which it does only for requests refused unprocessed.
	refused bool
	shunned int // how many idle connections were thrown away
	repeats int // how often net/http has repeated the request by itself
	refusal health.Cause
	inBody  bool
	length  int64 // of the response's body; -1 if unknown
	status  int   // of the response; 0 if there is none
	// resumption is what is known to finish the response elsewhere; relay how
	// that goes, nil until it has broken off.
	resumption failover.Resumption
	relay      *relay
	// dial is nil if the transport's connections are watched.
	dial *dialRecorder
	// held is the response that is handed over, if that needs to be known: with its
	// start held in place of received, which is the one that came, or to be resumed.
	received, held *http.Response

	// began is when the attempt did, ttfb how long the answer's first byte took;
	// 0 if that says nothing of the origin, as after an upload.
	began time.Time
	ttfb  time.Duration
	// member is what is known of the upstream; nil for nothing. enlisted tells
	// that the outcome is due, trial that the upstream's return depends on it.
	member          *health.Member
	enlisted, trial bool
	place           place
	load            *originLoad // nil if nothing is known of it

	// hook is called when the connection hooked ends; nil if there is no body.
	hook   *health.EndHook
	hooked *health.Conn
	reader atomic.Pointer[failover.SpoolReader] // the latest of this attempt
	// buffered is what the attempt reads instead, if the proxy gave it a reader
	// of its own.
	buffered *bufferedBody

	// dog watches for stalls; nil if nobody does. It reads what follows: reads and
	// uploads are odd while the response's, or the client's, body is waited for.
	dog            *watchdog
	abort          context.CancelCauseFunc // ends the attempt; nil if its connection has to be closed
	source         watchedBody
	reads, uploads atomic.Uint32
	// The read of the request's body that came last began and ended then, in ns after
	// began; 0: not yet. taken is when the response's body was read last, and delayed
	// for how long it was not, in all.
	uploadFrom, uploadTo atomic.Int64
	taken, delayed       atomic.Int64
	answering            atomic.Bool
	stalled              atomic.Bool

	view      atomic.Pointer[connView]
	responded atomic.Bool // the first byte of a response has come, on TLS
	firstView connView
	uploaded  atomic.Bool
	sentAfter atomic.Int64 // when the upload was read to its end, in ns after began
}

// begin makes the request of an attempt: its own view of the body, a trace that
// tells its connection, and with HTTP/2 a way to stop it.
func (t *Transport) begin(ex *exchange, req *http.Request) (*attempt, error) {
	a := &ex.first
	if ex.Attempt() > 1 {
		a = new(attempt)
	}
	ex.committed = false // what lb_retry_match has thrown away
	t.prepare(a, ex, req)
	if !ex.Idempotent() {
		a.hideIdempotencyKey()
	}
	return a, a.attachBody()
}

// prepare makes a the attempt to send req, which it does not change.
func (t *Transport) prepare(a *attempt, ex *exchange, req *http.Request) {
	a.ex, a.transport, a.client, a.began = ex, t, req.Context(), time.Now()
	a.name(req)
	a.enlist(req)

	ctx := a.client
	if t.mayMultiplex {
		ctx, a.cancel = context.WithCancelCause(ctx)
	}
	ctx = a.stoppable(ctx)
	if t.watched {
		ctx = a.watchConn(ctx)
	} else {
		a.dial = new(dialRecorder) // such transports dial for each request
		ctx = httptrace.WithClientTrace(ctx, a.dial.trace())
	}
	if a.out = req; ctx != a.client || ex.spool != nil {
		a.out = req.WithContext(ctx)
	}
	a.watchStall(req)
}

// repeatingFields are the request header fields after which net/http repeats any
// request without a body on a second connection by itself.
var repeatingFields = [...]string{"Idempotency-Key", "X-Idempotency-Key"}

// hideIdempotencyKey keeps net/http from that where the operator does not trust
// the field: it looks for this spelling, which means nothing to the origin.
func (a *attempt) hideIdempotencyKey() {
	for _, name := range repeatingFields {
		values, ok := a.out.Header[name]
		if !ok {
			continue
		}
		out := *a.out // the proxy's own request keeps its header
		out.Header = maps.Clone(out.Header)
		delete(out.Header, name)
		out.Header[strings.ToLower(name)] = values
		a.out = &out
	}
}

func (a *attempt) name(req *http.Request) {
	if di, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		a.upstream = di.Address
		if di.Network != "tcp" {
			a.upstream = di.String()
		}
		if di.Upstream != nil {
			a.key = di.Upstream.String()
		}
	}
	if a.upstream == "" {
		a.upstream = req.URL.Host
	}
	if a.key == "" {
		a.key = a.upstream
	}
}

// attachBody gives the request a reader of its own over the kept body.
func (a *attempt) attachBody() error {
	if a.ex.spool == nil {
		return nil
	}
	if !sameBody(a.out.Body, a.ex.source) {
		// The proxy has all of it (request_buffers) and gives each attempt a
		// reader of its own, also where an operator's lb_retry_match asks for
		// an attempt that we would not make.
		a.buffered = &bufferedBody{ReadCloser: a.out.Body, attempt: a}
		a.out.Body = a.buffered
		return nil
	}
	body, err := a.openBody()
	if err != nil {
		return err
	}
	a.out.Body = body
	if a.ex.Attempts() > 1 {
		a.out.Trailer = body.Trailer()
	}
	if a.ex.Idempotent() && len(a.out.Trailer) == 0 { // a second reader would have another trailer
		// Lets net/http repeat a request of which nothing was sent. Requests
		// that are not idempotent go without: net/http's own HTTP/2 would also
		// repeat those that ended in PROTOCOL_ERROR, which may have been executed.
		a.out.GetBody = func() (io.ReadCloser, error) { return a.openBody() }
	}
	return nil
}

func (a *attempt) openBody() (*attemptBody, error) {
	r, err := a.ex.spool.Reader()
	if err != nil {
		return nil, err
	}
	a.reader.Store(r)
	return &attemptBody{SpoolReader: r, attempt: a}, nil
}

// uploadEnded notes that all of the body was read: from now on it is the origin
// that takes its time.
func (a *attempt) uploadEnded() {
	a.sentAfter.Store(int64(time.Since(a.began)))
	a.uploaded.Store(true)
	a.place.takeNow()
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// firstByte is how long the origin took for the first byte of its answer; 0 if
// that cannot be told, as while the upload goes on.
func (a *attempt) firstByte(now time.Time) time.Duration {
	took := now.Sub(a.began)
	if !hasBody(a.out) {
		return took
	}
	if !a.uploaded.Load() {
		return 0
	}
	return max(1, took-time.Duration(a.sentAfter.Load()))
}

// mayRepeat tells whether the body can be of use once more. For a request that
// is not idempotent that ends with the first byte sent, except on HTTP/2, where
// the origin can refuse a stream unprocessed. A body that is longer than what is
// kept is not begun to be kept.
func (a *attempt) mayRepeat() bool {
	if a.ex.passing || a.ex.Expired(time.Now()) {
		return a.unsent()
	}
	if a.ex.Idempotent() {
		return true
	}
	v := a.view.Load()
	return v != nil && v.multiplexed || a.unsent()
}

func (a *attempt) unsent() bool {
	v := a.view.Load()
	return v != nil && v.conn != nil && v.conn.Sent() == v.sent
}

// clientErr is what reading the request's body from the client ended with.
func (a *attempt) clientErr() error {
	if a.ex.spool == nil {
		return nil
	}
	return a.ex.spool.SourceErr()
}

func (a *attempt) evidence(v *connView) health.Evidence {
	ev := health.Evidence{
		Context:  a.client.Err(),
		Watched:  a.transport.watched,
		Uploaded: a.out.Body == nil || a.uploaded.Load(),
		InBody:   a.inBody,
	}
	ev.Client, ev.Awaited = a.clientErr(), a.awaited(v)
	if a.inBody {
		ev.Delayed = a.delayedBy()
	}
	ev.Answered = a.responded.Load()
	if v == nil {
		return ev
	}
	ev.Connected = true
	ev.Conn, ev.SentBefore, ev.ReceivedBefore = v.conn, v.sent, v.received
	ev.Reused, ev.Idle, ev.Multiplexed, ev.Shunned = v.reused, v.idle, v.multiplexed, v.shunned
	return ev
}
