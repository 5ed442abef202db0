// SPDX-License-Identifier: Apache-2.0

// The connection that an attempt gets, what becomes of it, and requests that net/http
// repeats by itself.

package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"time"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// connView is the connection of an attempt as it was when the attempt got it.
type connView struct {
	conn           *health.Conn // nil if it is not watched
	sent, received int64
	reused         bool
	idle           time.Duration
	multiplexed    bool
	shunned        bool // it was idle for too long, and is not used
	identity       net.Conn
}

// errRefusedUnprocessed ends an attempt whose request the origin has refused.
var errRefusedUnprocessed = errors.New("the origin refused the request unprocessed")

// watchConn asks to be told the attempt's connection. Caddy's proxy makes a trace
// for each attempt, which nobody else sees and which is not in use yet: to add
// to it spares a copy of the request. Any other trace is left as it is.
func (a *attempt) watchConn(ctx context.Context) context.Context {
	var responded func()
	if a.cancel != nil { // perhaps TLS, of which the connection's own count tells less
		responded = func() { a.responded.Store(true) }
	}
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.GotConn == nil && trace.GotFirstResponseByte == nil {
		trace.GotConn, trace.GotFirstResponseByte = a.gotConn, responded
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: a.gotConn, GotFirstResponseByte: responded})
}

// gotConn is called by net/http in the goroutine of the round trip. A second
// call means that net/http repeats the request by itself.
func (a *attempt) gotConn(info httptrace.GotConnInfo) {
	v := &a.firstView
	prev := a.view.Load()
	if prev != nil {
		v = new(connView)
	}
	v.identity, v.reused = info.Conn, info.Reused
	if info.WasIdle {
		v.idle = info.IdleTime
	}
	v.multiplexed = a.transport.multiplexes || negotiatedHTTP2(info.Conn)
	if v.conn = health.Unwrap(info.Conn); v.conn != nil {
		v.sent, v.received = v.conn.Sent(), v.conn.Received()
		if v.multiplexed && !v.reused {
			a.limitUnacked(v.conn)
		}
		if a.shun(v); !v.multiplexed && !v.shunned {
			v.conn.AwaitHeader()
			a.endBodyWith(v.conn)
		}
	}
	a.view.Store(v)
	switch {
	case prev != nil && prev.shunned: // it was us
	case prev != nil && a.cancel != nil && (prev.identity == v.identity || a.repeats > 0):
		a.stopHTTP2(prev, v)
	case prev != nil:
		a.repeats++
		a.noteHidden(prev)
	}
}

// endBodyWith ends the reading of the request's body with the connection: over
// HTTP/1 net/http waits for it before it reports that the connection has broken,
// and a client that is silent would delay the next attempt.
func (a *attempt) endBodyWith(c *health.Conn) {
	if a.ex.spool == nil {
		return
	}
	a.unhook()
	r := a.reader.Load() // a later one belongs to another connection
	a.hook = &health.EndHook{F: func() {
		if r != nil {
			_ = r.Close()
		}
	}}
	a.hooked = c
	c.Hook(a.hook)
}

// unhook lets go of the connection, which may wait for other requests now.
func (a *attempt) unhook() {
	if a.hooked != nil {
		a.hooked.Unhook(a.hook)
	}
}

func negotiatedHTTP2(c net.Conn) bool {
	tc, ok := c.(*tls.Conn)
	return ok && tc.ConnectionState().NegotiatedProtocol == "h2"
}

// stopHTTP2 ends the attempt before the request goes out to the same origin once
// more: HTTP/2 would repeat it up to seven times, for a minute, where another
// origin may answer at once. A connection that ends in good order is left to
// HTTP/2, once: that is no fault, and Caddy's proxy would count it as one. Nothing
// has been sent by then: the client checks its context before it writes HEADERS.
func (a *attempt) stopHTTP2(prev, now *connView) {
	a.refused, a.refusal = true, health.RefusedStream
	if prev.identity != now.identity {
		a.refusal = health.GoAway // only a connection that ends is left for another
	}
	a.cancel(errRefusedUnprocessed)
}

// noteHidden records a fault that net/http has dealt with: an idle connection
// that was closed as the request came, and a second one.
func (a *attempt) noteHidden(prev *connView) {
	var end error = errStaleConnection
	if prev.conn != nil {
		if e := prev.conn.End(); e.Err != nil {
			end = e.Err
		}
	}
	f := health.Classify(end, a.evidence(prev))
	if prev.multiplexed {
		f.Cause, f.Weight = health.GoAway, 0 // a connection that ends is left for another
	}
	a.ex.Note(f, a.upstream, failover.Decision{Action: failover.Retried})
	a.observeHidden(f, prev)
}

var errStaleConnection = errors.New("an idle connection had been closed")
