// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 Caddy configures HTTP/2 in this way, and that is what is tested

// Faults of HTTP/2, through both of Go's clients for it, with and without TLS.

package health_test

import (
	"crypto/x509"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// flavour is a way in which Go speaks HTTP/2.
type flavour struct {
	name     string
	protocol faultinject.Protocol
	prepare  func(*client) error
}

var flavours = []flavour{
	{"net_http", faultinject.H2, func(c *client) error {
		c.ForceAttemptHTTP2 = true
		return nil
	}},
	{"net_http_h2c", faultinject.H2C, func(c *client) error {
		c.multiplexes = true
		c.Protocols = new(http.Protocols)
		c.Protocols.SetUnencryptedHTTP2(true)
		return nil
	}},
	{"x_net", faultinject.H2, func(c *client) error { return http2.ConfigureTransport(c.Transport) }},
	{"x_net_h2c", faultinject.H2C, func(c *client) error { // as Caddy does
		c.multiplexes = true
		c.Protocols = new(http.Protocols)
		c.Protocols.SetUnencryptedHTTP2(true)
		return http2.ConfigureTransport(c.Transport)
	}},
}

func (fl flavour) client(t *testing.T, roots *x509.CertPool) *client {
	t.Helper()
	c := newClient(t, roots)
	if err := fl.prepare(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// refused is a request that the origin has promised not to have acted on.
func refused(cause health.Cause) want {
	return want{cause: cause, phases: at(health.PhaseWait, health.PhaseWrite), side: health.SideUpstream, safety: health.Unprocessed}
}

// calm is an origin that asks for less, without saying what it has done.
func calm(cause health.Cause) want {
	return want{cause: cause, phases: at(health.PhaseWait), side: health.SideUpstream, safety: health.IfIdempotent}
}

// h2Cases are run in every flavour.
var h2Cases = []struct {
	row, name string
	fault     faultinject.Fault
	send      send
	want      want
}{
	{"h2_refused", "GET that would be repeated", faultinject.RefusedStream, send{}, refused(health.RefusedStream)},
	{"h2_opaque", "REFUSED_STREAM during a large upload", faultinject.RefusedStream, send{upload: 1 << 20}, refused(health.RefusedStream)},
	{"h2_opaque", "REFUSED_STREAM with a body", faultinject.RefusedStream, send{upload: 10}, refused(health.RefusedStream)},
	{"h2_opaque", "GOAWAY with a body", faultinject.GoAway, send{upload: 10}, refused(health.GoAway)},
	{"h2_opaque", "PROTOCOL_ERROR with a body", faultinject.StreamProtocolError, send{upload: 10}, acted(health.Protocol, health.PhaseWait)},
	// Classify is told that the request was refused, and not in which way.
	{"h2_drain", "GET that would be repeated", faultinject.GoAway, send{}, refused(health.RefusedStream)},
	{"h2_drain", "large upload", faultinject.GoAway, send{upload: 1 << 20}, refused(health.GoAway)},

	{"h2_calm", "stream", faultinject.StreamCalm, send{}, calm(health.Overloaded)},
	{"h2_calm", "stream of an upload", faultinject.StreamCalm, send{upload: 10}, calm(health.Overloaded)},
	{"h2_calm", "GOAWAY", faultinject.GoAwayCalm, send{}, calm(health.Overloaded)},

	{"h2_stream_reset", "INTERNAL_ERROR", faultinject.StreamInternalError, send{}, acted(health.Reset, health.PhaseWait)},
	{"h2_stream_reset", "CANCEL", faultinject.StreamCancel, send{}, acted(health.Reset, health.PhaseWait)},
	{"h2_stream_reset", "INTERNAL_ERROR after an upload", faultinject.StreamInternalError, send{upload: 10}, acted(health.Reset, health.PhaseWait)},
	{"h2_stream_reset", "INTERNAL_ERROR, chunked upload", faultinject.StreamInternalError, send{upload: 10, chunked: true}, acted(health.Reset, health.PhaseWait)},

	{"h2_conn_lost", "reset", faultinject.H2ConnLost, send{}, acted(health.Reset, health.PhaseWait)},
	{"h2_conn_lost", "reset after an upload", faultinject.H2ConnLost, send{upload: 10}, acted(health.Reset, health.PhaseWait)},
	{"h2_conn_lost", "close", faultinject.CloseAfterRequest, send{}, acted(health.Closed, health.PhaseWait)},
	{"h2_conn_lost", "reset of a reused connection", faultinject.ResetReused, send{warm: true}, acted(health.Reset, health.PhaseWait)},
	{"h2_conn_lost", "close of a reused connection", faultinject.CloseReused, send{warm: true}, acted(health.Closed, health.PhaseWait)},

	{"bad_response", "HTTP/2, malformed field", faultinject.BadHeader, send{}, acted(health.Protocol, health.PhaseWait, health.PhaseHeaders)},
	{"bad_response", "HTTP/2, garbage", faultinject.Garbage, send{}, acted(health.Protocol, health.PhaseWait)},
	{"response_timeout", "HTTP/2, silence", faultinject.StallBeforeHeaders, send{tune: impatient}, acted(health.Timeout, health.PhaseWait)},
	{"body_reset", "HTTP/2, stream", faultinject.StreamResetInBody, send{path: someBytes}, acted(health.Reset, health.PhaseBody)},
	{"body_reset", "HTTP/2, connection", faultinject.ResetInBody, send{path: someBytes}, acted(health.Reset, health.PhaseBody)},
	{"body_truncated", "HTTP/2, connection", faultinject.CloseInBody, send{path: someBytes}, acted(health.Closed, health.PhaseBody)},
}

func allFlavours() []faultCase {
	var all []faultCase
	for _, fl := range flavours {
		for _, c := range h2Cases {
			all = append(all, faultCase{c.row, fl.name + "/" + c.name, func(t *testing.T) health.Fault {
				o := startOrigin(t, faultinject.Config{Protocol: fl.protocol, Fault: c.fault})
				return fl.client(t, o.RootCAs()).try(t, o.URL(), c.send).fault(t)
			}, c.want})
		}
	}
	return all
}

func TestClassifyHTTP2(t *testing.T) { runCases(t, allFlavours()) }
