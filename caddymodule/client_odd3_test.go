// SPDX-License-Identifier: Apache-2.0

// Odd requests over HTTP/3, written by hand: a client of the library would not send
// them, and its server accepts hosts that HTTP/1's and HTTP/2's do not.

package caddymodule_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

var oddHosts = map[string]string{
	"two words":   "a b",
	"a path":      "a/b",
	"no UTF-8":    "\xff.example",
	"a bad label": "xn--\u00fc.example",
	"a long one":  strings.Repeat("\u00fc", 300) + ".example",
	"a control":   "a\x01b",
	"brackets":    "[::1",
	"no host":     "",
}

func TestOddHostsOverHTTP3AreTheClients(t *testing.T) {
	h3 := (&cutter{name: "h3", version: 3}).startHTTP3(t)
	for name, block := range map[string]string{
		"HTTP/1": "reset_guard " + startOrigin(t, faultinject.Config{}).Addr(),
		"HTTP/2": "reset_guard " + startOrigin(t, faultinject.Config{Protocol: faultinject.H2C}).Addr() + " {\ntransport http {\nversions h2c\n}\n}",
		"HTTP/3": "reset_guard https://" + h3.addr + " {\ntransport http {\nversions 3\ntls_insecure_skip_verify\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := serveSecureAnyHost(t, block)
			s.settle(t)
			const status200 = 0xc0 | 25 // of QPACK's static table
			if answer := s.askH3(t, "a.example"); !bytes.Contains(answer, []byte{status200}) {
				t.Fatalf("an ordinary request got %q", answer)
			}
			for name, host := range oddHosts {
				t.Run(name, func(t *testing.T) {
					before := len(s.faults(t))
					for range 12 { // enough to eject, if they counted
						s.askH3(t, host)
					}
					for _, l := range s.faults(t)[before:] {
						if l.text("side") != "client" {
							t.Fatalf("a client's doing was told as a fault: %v", l)
						}
					}
				})
			}
			expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
			expect(t, "pool faults", len(s.told(t, "all upstreams fail alike")), 0)
		})
	}
}

// askH3 sends a GET with that host on a connection of its own, and returns the stream's
// bytes when it is answered or ended (RFC 9114, 4.1; RFC 9204, 4.5.6: literal fields).
func (s *secureServer) askH3(t *testing.T, host string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := anyCertificate()
	cfg.NextProtos, cfg.ServerName = []string{"h3"}, "127.0.0.1"
	conn, err := quic.DialAddr(ctx, s.addr, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	control, err := conn.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Write([]byte{0, 4, 0}); err != nil { // a control stream, empty SETTINGS
		t.Fatal(err)
	}
	block := []byte{0, 0}
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", "/"}} {
		block = appendQPACK(block, 0x20, 3, field[0])
		block = appendQPACK(block, 0, 7, field[1])
	}
	request, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = request.SetDeadline(time.Now().Add(patience))
	if _, err := request.Write(append(quicvarint.Append([]byte{1}, uint64(len(block))), block...)); err != nil {
		t.Fatal(err)
	}
	_ = request.Close()
	answer, err := io.ReadAll(request)
	if err != nil {
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			t.Fatalf("no answer: %v", err)
		}
	}
	return answer
}

// appendQPACK appends a string whose length has a prefix of so many bits
// (RFC 7541, 5.1 and 5.2, without Huffman's code).
func appendQPACK(b []byte, first byte, bits int, s string) []byte {
	n, most := len(s), 1<<bits-1
	if n < most {
		return append(append(b, first|byte(n)), s...)
	}
	b = append(b, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), s...)
}
