// SPDX-License-Identifier: Apache-2.0

// Real errors with less evidence than usual, and requests that no origin sees.

package health_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// A transport whose connections are not watched (FastCGI, other modules) leaves
// the error alone. Nothing is then known to be unsent.
func TestClassifyUnwatched(t *testing.T) {
	for _, tc := range []struct {
		fault faultinject.Fault
		want  want
	}{
		{faultinject.CloseAfterRequest, unwatched(health.Closed, 1, health.IfIdempotent)},
		{faultinject.ResetAfterRequest, unwatched(health.Reset, 1, health.IfIdempotent)},
		{faultinject.Garbage, unwatched(health.Protocol, 1, health.IfIdempotent)},
		{faultinject.CloseOnAccept, want{cause: "", side: health.SideUpstream, weight: 1, safety: health.IfIdempotent}},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			a := tryOrigin(t, faultinject.Config{Fault: tc.fault}, send{upload: 10})
			f := health.Classify(a.err, health.Evidence{})
			if f.Sent != -1 || f.Received != -1 {
				t.Errorf("got %d bytes sent, %d received; want -1 for unknown", f.Sent, f.Received)
			}
			if tc.want.cause == "" { // whatever was seen first
				tc.want.cause = f.Cause
			}
			tc.want.check(t, f)
		})
	}
}

// An error that nobody knows counts against the origin, and nothing is taken to be
// unsent.
func TestClassifyUnknown(t *testing.T) {
	f := health.Classify(errors.New("no such error"), health.Evidence{})
	unwatched(health.Unknown, 1, health.IfIdempotent).check(t, f)
	if f.Err == nil {
		t.Error("the error is lost")
	}
}

// What net/http refuses to send is the client's doing, on every HTTP version.
func TestClassifyUnsendable(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(r *http.Request)
	}{
		{"field name", func(r *http.Request) { r.Header["not a name"] = []string{"x"} }},
		{"field value", func(r *http.Request) { r.Header["A"] = []string{"a\nb"} }},
		{"trailer name", func(r *http.Request) { r.Trailer = http.Header{"not a name": nil} }},
		{"trailer that is none", func(r *http.Request) { r.Trailer = http.Header{"Content-Length": nil} }},
		{"method", func(r *http.Request) { r.Method = "NOT A METHOD" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, fl := range flavours {
				o := startOrigin(t, faultinject.Config{Protocol: fl.protocol})
				expectUnsendable(t, o, fl.client(t, o.RootCAs()), tc.spoil)
			}
			o := startOrigin(t, faultinject.Config{})
			expectUnsendable(t, o, newClient(t, nil), tc.spoil)
		})
	}
}

// When net/http gives a request up while writing it, RoundTrip returns the writer's
// error or, rarely, what the reader sees of the connection that the writer closed.
func TestClassifyGivenUp(t *testing.T) {
	for _, sent := range []string{"", "PUT "} {
		c := newClient(t, nil)
		conn, err := c.dial(t.Context(), "tcp", startPeer(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		_, err = conn.Read(make([]byte, 1))
		ev := health.Evidence{Watched: true, Connected: true, Conn: health.Unwrap(conn)}
		want{cause: health.Protocol, side: health.SideClient, safety: health.Never}.check(t, health.Classify(err, ev))
	}
}

func expectUnsendable(t *testing.T, o *faultinject.Origin, c *client, spoil func(*http.Request)) {
	t.Helper()
	req := send{upload: 10, chunked: true}.request(t, o.URL())
	spoil(req)
	f := c.do(t, req).fault(t)
	want{cause: health.Protocol, side: health.SideClient, safety: health.Never}.check(t, f)
	if n := o.Requests(); n != 0 {
		t.Errorf("the origin has got %d requests, want 0", n)
	}
}
