// SPDX-License-Identifier: Apache-2.0

// Faults of TLS to the origin.

package health_test

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// overTLS is a send to an origin that speaks TLS and has the fault.
func overTLS(f faultinject.Fault, s send) func(*testing.T) health.Fault {
	return through(faultinject.Config{Protocol: faultinject.H1TLS, Fault: f}, s)
}

// inTLS is what a handshake that did not complete means, whatever it was.
func inTLS(cause health.Cause, trip bool) want {
	return want{cause: cause, phases: at(health.PhaseTLS), side: health.SideUpstream, weight: 1, trip: trip, safety: health.Unsent}
}

var tlsCases = []faultCase{
	{"tls_cert", "expired", overTLS(faultinject.TLSExpired, send{}), inTLS(health.TLSExpired, true)},
	{"tls_cert", "expired, POST", overTLS(faultinject.TLSExpired, send{upload: 10}), inTLS(health.TLSExpired, true)},
	{"tls_cert", "unknown authority", overTLS(faultinject.TLSUntrusted, send{}), inTLS(health.TLSUntrusted, true)},
	{"tls_cert", "other name", overTLS(faultinject.TLSWrongName, send{}), inTLS(health.TLSName, true)},
	{"tls_plaintext", "HTTP on the TLS port", overTLS(faultinject.TLSPlaintext, send{}), inTLS(health.TLSHandshake, true)},
	{"tls_alert", "handshake_failure", overTLS(faultinject.TLSAlert, send{}), inTLS(health.TLSVersion, true)},
	{"tls_alert", "origin speaks TLS 1.0 only", overTLS(faultinject.TLSVersion, send{}), inTLS(health.TLSVersion, true)},
	{"tls_alert", "protocol_version", answerHello(alert(70)), inTLS(health.TLSVersion, true)},
	{"tls_alert", "internal_error", answerHello(alert(80)), inTLS(health.TLSHandshake, false)},
	// TLS 1.2 has no alert of its own for a missing client certificate.
	{"tls_alert", "client certificate required, TLS 1.2", overTLS(faultinject.TLSClientCert, send{tune: func(c *client) {
		c.TLSClientConfig.MaxVersion = tls.VersionTLS12
	}}), inTLS(health.TLSVersion, true)},
	{
		"tls_alert", "client certificate required, TLS 1.3, request sent", rejectClient(afterRequest),
		want{
			cause: health.TLSHandshake, phases: at(health.PhaseWait), side: health.SideUpstream,
			weight: 1, trip: true, safety: health.IfIdempotent,
		},
	},
	{
		"tls_alert", "client certificate required, TLS 1.3, request not sent", rejectClient(beforeRequest),
		want{
			cause: health.TLSHandshake, phases: at(health.PhaseWrite), side: health.SideUpstream,
			weight: 1, trip: true, safety: health.Unsent,
		},
	},
	{"tls_handshake_reset", "reset", overTLS(faultinject.TLSReset, send{}), inTLS(health.Reset, false)},
	{"tls_handshake_reset", "close", overTLS(faultinject.TLSClose, send{}), inTLS(health.Closed, false)},
	{"tls_timeout", "silence", overTLS(faultinject.TLSStall, send{tune: func(c *client) {
		c.TLSHandshakeTimeout = 50 * time.Millisecond
	}}), inTLS(health.Timeout, false)},
}

func TestClassifyTLS(t *testing.T) { runCases(t, tlsCases) }

// alert is a fatal TLS alert in a record of its own (RFC 8446 section 6).
func alert(number byte) []byte { return []byte{0x15, 3, 3, 0, 2, 2, number} }

// answerHello lets a peer answer the ClientHello with record.
func answerHello(record []byte) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		addr := startPeer(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = c.Write(record)
			_ = c.CloseWrite()
			drain(c)
		})
		return newClient(t, nil).do(t, send{}.request(t, "https://"+addr)).fault(t)
	}
}

const (
	beforeRequest = false
	afterRequest  = true
)

// rejectClient lets a peer ask for a client certificate and get none. With TLS
// 1.3 the client's handshake is over by then, and its request may be under way.
func rejectClient(when bool) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		sent := make(chan struct{})
		if when == beforeRequest {
			close(sent)
		}
		cert, roots := newCertificate(t)
		addr := startPeer(t, func(c *net.TCPConn) {
			tc := tls.Server(&gatedConn{Conn: c, gate: sent}, &tls.Config{
				Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
			})
			_ = tc.Handshake()
			drain(c)
		})
		c := newClient(t, roots)
		conn := c.watch()
		c.gotConn = func(*health.Conn, bool) {
			if when == beforeRequest {
				<-conn.closed
				return
			}
			wrote := sync.OnceFunc(func() { close(sent) })
			conn.wrote.Store(&wrote)
		}
		return c.do(t, send{}.request(t, "https://"+addr)).fault(t)
	}
}
