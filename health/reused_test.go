// SPDX-License-Identifier: Apache-2.0

// Connections that end before a request was written on them, fresh ones and
// reused ones, and reused ones that end right after.

package health_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// ending is how a peer ends a connection; wire has TLS, if there is any.
type ending func(wire net.Conn, tcp *net.TCPConn)

func byReset(_ net.Conn, tcp *net.TCPConn) { reset(tcp) }

// byClose sends close_notify, if there is TLS, and a FIN.
func byClose(wire net.Conn, tcp *net.TCPConn) {
	if tc, ok := wire.(*tls.Conn); ok {
		_ = tc.CloseWrite()
	}
	_ = tcp.CloseWrite()
	drain(tcp)
}

// by408 says that no request came in time, as haproxy and others do, and closes.
func by408(wire net.Conn, tcp *net.TCPConn) {
	_, _ = io.WriteString(wire, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	byClose(wire, tcp)
}

// turn is how many requests a connection has served when it ends.
type turn int

const (
	whenAccepted  turn = 0
	afterOneOther turn = 1
)

// startIdlePeer answers first requests on each connection, and ends it when over
// is called.
func startIdlePeer(t *testing.T, first turn, overTLS bool, end ending) (c *client, url string, over func()) {
	t.Helper()
	cert, roots := newCertificate(t)
	gate := make(chan struct{})
	addr := startPeer(t, func(tcp *net.TCPConn) {
		wire := net.Conn(tcp)
		if overTLS {
			tc := tls.Server(tcp, &tls.Config{Certificates: []tls.Certificate{cert}})
			if tc.Handshake() != nil {
				return
			}
			wire = tc
		}
		br := bufio.NewReader(wire)
		for range first {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(wire, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		select {
		case <-gate:
			end(wire, tcp)
		case <-t.Context().Done():
		}
	})
	scheme := "http://"
	if overTLS {
		scheme = "https://"
	}
	return newClient(t, roots), scheme + addr, func() { close(gate) }
}

// endBeforeWrite lets the connection end between the moment in which the
// request got it and the moment in which it is written.
func endBeforeWrite(first turn, overTLS bool, end ending, s send) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		c, url, over := startIdlePeer(t, first, overTLS, end)
		closed := c.watch().closed
		left := int(first)
		c.gotConn = func(*health.Conn, bool) {
			if left--; left == -1 {
				over()
				<-closed // net/http has seen it
			}
		}
		s.warm = first > 0
		a := c.try(t, url, s)
		if got := len(a.views); got > 1 {
			t.Fatalf("the request got %d connections, want 1", got)
		}
		return a.fault(t)
	}
}

// stale is what the end of a reused connection means.
func stale(cause health.Cause, weight float64, safety health.Safety) want {
	return want{cause: cause, phases: at(health.PhaseStale), side: health.SideUpstream, weight: weight, safety: safety}
}

// fresh is what the end of a connection means of which nothing was used.
func fresh(cause health.Cause) want {
	return want{cause: cause, phases: at(health.PhaseWrite), side: health.SideUpstream, weight: 1, safety: health.Unsent}
}

var reusedCases = []faultCase{
	{"accept_close", "GET", endBeforeWrite(whenAccepted, false, byClose, send{}), fresh(health.Closed)},
	{"accept_close", "POST", endBeforeWrite(whenAccepted, false, byClose, send{upload: 10}), fresh(health.Closed)},
	{"accept_close", "reset", endBeforeWrite(whenAccepted, false, byReset, send{upload: 10}), fresh(health.Reset)},
	{"accept_close", "TLS, close", endBeforeWrite(whenAccepted, true, byClose, send{upload: 10}), fresh(health.Closed)},
	{"accept_close", "TLS, reset", endBeforeWrite(whenAccepted, true, byReset, send{upload: 10}), fresh(health.Reset)},

	{"stale_conn", "close", endBeforeWrite(afterOneOther, false, byClose, send{upload: 10}), stale(health.Closed, 0, health.Unsent)},
	{"stale_conn", "reset", endBeforeWrite(afterOneOther, false, byReset, send{upload: 10}), stale(health.Reset, 0, health.Unsent)},
	{"stale_conn", "answer 408 and close", endBeforeWrite(afterOneOther, false, by408, send{upload: 10}), stale(health.Closed, 0, health.Unsent)},
	{"stale_conn", "TLS, close", endBeforeWrite(afterOneOther, true, byClose, send{upload: 10}), stale(health.Closed, 0, health.Unsent)},
	{"stale_conn", "TLS, reset", endBeforeWrite(afterOneOther, true, byReset, send{upload: 10}), stale(health.Reset, 0, health.Unsent)},
	{"stale_conn", "GET that net/http repeats, close", hiddenRepeat(faultinject.CloseReused), stale(health.Closed, 0.25, health.IfIdempotent)},
	{"stale_conn", "GET that net/http repeats, reset", hiddenRepeat(faultinject.ResetReused), stale(health.Reset, 0.25, health.IfIdempotent)},

	{"stale_or_crash", "close", reused(faultinject.H1, faultinject.CloseReused), stale(health.Closed, 0.25, health.IfIdempotent)},
	{"stale_or_crash", "reset", reused(faultinject.H1, faultinject.ResetReused), stale(health.Reset, 0.25, health.IfIdempotent)},
	{"stale_or_crash", "TLS, close", reused(faultinject.H1TLS, faultinject.CloseReused), stale(health.Closed, 0.25, health.IfIdempotent)},
	{"stale_or_crash", "TLS, write after the reader saw the end", writeAfterNotify, stale(health.Closed, 0.25, health.IfIdempotent)},
	{"stale_or_crash", "TLS, reset", reused(faultinject.H1TLS, faultinject.ResetReused), stale(health.Reset, 0.25, health.IfIdempotent)},
}

func TestClassifyReused(t *testing.T) { runCases(t, reusedCases) }

// reused sends a POST as the second request of a connection.
func reused(p faultinject.Protocol, f faultinject.Fault) func(*testing.T) health.Fault {
	return through(faultinject.Config{Protocol: p, Fault: f}, send{upload: 10, warm: true})
}

// hiddenRepeat sends a GET that net/http repeats on a fresh connection by
// itself, and classifies what became of the first.
func hiddenRepeat(f faultinject.Fault) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		return tryOrigin(t, faultinject.Config{Fault: f}, send{warm: true}).hidden(t)
	}
}

// writeAfterNotify writes after the reader has seen close_notify and closed the
// connection, which is what a body meets when net/http's reader is faster.
func writeAfterNotify(t *testing.T) health.Fault {
	c, url, over := startIdlePeer(t, whenAccepted, true, func(wire net.Conn, tcp *net.TCPConn) {
		_ = wire.(*tls.Conn).CloseWrite() // and no FIN yet
		drain(tcp)
	})
	raw, err := c.dial(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := c.TLSClientConfig.Clone()
	cfg.ServerName = "127.0.0.1"
	conn := tls.Client(raw, cfg)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	watched := health.Unwrap(conn)
	ev := health.Evidence{
		Watched: true, Connected: true, Reused: true,
		Conn: watched, SentBefore: watched.Sent(), ReceivedBefore: watched.Received(),
	}
	_, _ = conn.Write([]byte("POST / HTTP/1.1\r\n"))
	over()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("reading: got %v, want EOF by close_notify", err)
	}
	_ = conn.Close()
	_, err = conn.Write([]byte("Host: a\r\n\r\n"))
	return health.Classify(err, ev)
}

// Whatever a peer does as soon as it has accepted, the request counts as unsent
// exactly if not one byte of it was written.
func TestUnsentMeansNothingWritten(t *testing.T) {
	for _, f := range []faultinject.Fault{faultinject.CloseOnAccept, faultinject.ResetOnAccept} {
		o := startOrigin(t, faultinject.Config{Fault: f})
		for range 200 {
			c := newClient(t, nil)
			a := c.try(t, o.URL(), send{upload: 10})
			if len(a.views) == 0 {
				continue // the dial itself failed
			}
			if got := a.fault(t); (got.Safety == health.Unsent) != (got.Sent == 0) {
				t.Fatalf("%s: got safety %v with %d bytes sent", f, got.Safety, got.Sent)
			}
		}
		if n := o.Requests(); f == faultinject.CloseOnAccept && n != 0 {
			t.Errorf("%s: the origin has read %d requests", f, n)
		}
	}
}
