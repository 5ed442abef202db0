// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// roundTripErr sends a GET to an origin that answers anything with these bytes.
func roundTripErr(t *testing.T, scheme, answer string) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		conn.Read(make([]byte, 4096))
		conn.Write([]byte(answer))
		conn.(*net.TCPConn).CloseWrite() // closing at once might reset it
		conn.Read(make([]byte, 4096))    // until the client has had enough
	}()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("got an answer, want an error")
	}
	return err
}

// TestHintKnowsWrongScheme uses net/http's own errors: the hints rest on their
// type and wording, and a new Go version may change either.
func TestHintKnowsWrongScheme(t *testing.T) {
	for _, tc := range []struct {
		name, scheme, answer string
		cause                health.Cause
		want                 string
	}{
		{"HTTP where TLS is expected", "https", "HTTP/1.1 400 Bad Request\r\n\r\n", health.TLSHandshake, "Remove https://"},
		{"TLS where HTTP is expected", "http", "\x15\x03\x01\x00\x02\x02\x46", health.Protocol, "Write https://"},
		{"HTTP/2 where HTTP/1 is expected", "http", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", health.Protocol, "Write h2c://"},
		{"something else", "http", "220 mail.example ESMTP\r\n", health.Protocol, "valid HTTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := roundTripErr(t, tc.scheme, tc.answer)
			if got := Hint(health.Fault{Cause: tc.cause, Phase: health.PhaseHeaders, Err: err}); !strings.Contains(got, tc.want) {
				t.Errorf("%v: got %q, want it to say %q", err, got, tc.want)
			}
		})
	}
}
