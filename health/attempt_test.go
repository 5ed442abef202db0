// SPDX-License-Identifier: Apache-2.0

// The attempts that the tests make: net/http's own clients over watched
// connections, with the evidence that a proxy can collect.

package health_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// client sends requests over watched connections.
type client struct {
	*http.Transport
	dialer net.Dialer
	// multiplexes tells that every connection is HTTP/2, for where TLS does not
	// tell it.
	multiplexes bool
	// gotConn is called for each connection that a request gets, in the
	// goroutine that is about to send it.
	gotConn func(conn *health.Conn, reused bool)
}

func newClient(t *testing.T, roots *x509.CertPool) *client {
	t.Helper()
	c := &client{}
	c.Transport = &http.Transport{
		DialContext:     c.dial,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// dialError marks what comes from the dial, as Caddy's DialError does.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func (c *client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &dialError{err}
	}
	return health.WatchConn(conn), nil
}

// attempt is one round trip with the reading of its answer.
type attempt struct {
	client *client
	ctx    context.Context // the client's own
	cancel context.CancelCauseFunc
	views  []view // one for each connection or stream that the request got
	upload *upload

	answered atomic.Bool // set by net/http's reading goroutine
	refused  bool
	inBody   bool
	response *http.Response // its body is read and closed; nil if none came
	err      error
}

// view is a connection as it was when the request got it.
type view struct {
	conn           *health.Conn
	sent, received int64
	reused         bool
	idle           time.Duration
	multiplexed    bool
}

// upload watches how the request's body is read.
type upload struct {
	io.ReadCloser
	done   atomic.Bool
	broken atomic.Pointer[error]
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		u.done.Store(true)
	case err != nil:
		u.broken.CompareAndSwap(nil, &err)
	}
	return n, err
}

var errRefused = errors.New("the origin refused the request unprocessed")

// do sends req and reads the answer to its end.
func (c *client) do(t *testing.T, req *http.Request) *attempt {
	t.Helper()
	ctx, cancel := context.WithCancelCause(req.Context())
	t.Cleanup(func() { cancel(nil) })
	a := &attempt{client: c, ctx: req.Context(), cancel: cancel}
	out := req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              a.gotConn,
		GotFirstResponseByte: func() { a.answered.Store(true) },
	}))
	if req.Body != nil && req.Body != http.NoBody {
		a.upload = &upload{ReadCloser: req.Body}
		out.Body, out.GetBody = a.upload, nil
	}
	if a.response, a.err = c.RoundTrip(out); a.err == nil {
		a.inBody = true
		_, a.err = io.Copy(io.Discard, a.response.Body)
		_ = a.response.Body.Close()
	}
	return a
}

func (a *attempt) gotConn(info httptrace.GotConnInfo) {
	v := view{reused: info.Reused, idle: info.IdleTime, multiplexed: a.client.multiplexes}
	if tc, ok := info.Conn.(*tls.Conn); ok {
		v.multiplexed = tc.ConnectionState().NegotiatedProtocol == "h2"
	}
	if v.conn = health.Unwrap(info.Conn); v.conn != nil {
		v.sent, v.received = v.conn.Sent(), v.conn.Received()
	}
	a.views = append(a.views, v)
	if v.multiplexed && len(a.views) > 1 {
		// HTTP/2 is about to repeat a request that was refused unprocessed.
		a.refused = true
		a.cancel(errRefused)
	}
	if a.client.gotConn != nil {
		a.client.gotConn(v.conn, v.reused)
	}
}

// evidence is what is known after the attempt ended on the last connection.
func (a *attempt) evidence() health.Evidence {
	if len(a.views) == 0 {
		return a.evidenceOf(nil)
	}
	return a.evidenceOf(&a.views[len(a.views)-1])
}

func (a *attempt) evidenceOf(v *view) health.Evidence {
	var dial *dialError
	ev := health.Evidence{
		Context: a.ctx.Err(), Watched: true, InBody: a.inBody, Uploaded: true,
		Dialing: errors.As(a.err, &dial), Unprocessed: a.refused, Answered: a.answered.Load(),
	}
	if a.upload != nil {
		ev.Uploaded = a.upload.done.Load()
		if broken := a.upload.broken.Load(); broken != nil {
			ev.Client = *broken
		}
	}
	if v == nil {
		return ev
	}
	ev.Connected, ev.Conn, ev.SentBefore, ev.ReceivedBefore = true, v.conn, v.sent, v.received
	ev.Reused, ev.Idle, ev.Multiplexed = v.reused, v.idle, v.multiplexed
	return ev
}

// fault classifies the error of the attempt, which must have one.
func (a *attempt) fault(t *testing.T) health.Fault {
	t.Helper()
	if a.err == nil {
		t.Fatalf("got status %d and a whole body, want an error", a.response.StatusCode)
	}
	return health.Classify(a.err, a.evidence())
}

// hidden classifies what became of the first connection of an attempt that
// net/http repeated by itself on another.
func (a *attempt) hidden(t *testing.T) health.Fault {
	t.Helper()
	if a.err != nil || len(a.views) != 2 {
		t.Fatalf("got %d connections, %v; want 2 and an answer", len(a.views), a.err)
	}
	ev := a.evidenceOf(&a.views[0])
	ev.InBody, ev.Answered = false, false // these are the second connection's
	return health.Classify(a.views[0].conn.End().Err, ev)
}
