// SPDX-License-Identifier: Apache-2.0

// Upgrades: once an origin has switched protocols, the bytes are no business of
// the guard's, in either direction.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

const upgrade = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// socketOrigin answers one upgrade with the response given and then speaks.
func socketOrigin(tb testing.TB, response string, speak func(c *net.TCPConn, r *bufio.Reader)) string {
	return tcpOrigin(tb, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		if _, err := io.WriteString(c, response); err == nil && speak != nil {
			speak(c.(*net.TCPConn), r)
		}
	})
}

// openSocket does the client's part of the upgrade.
func openSocket(tb testing.TB, s *server, early string) (*net.TCPConn, *bufio.Reader) {
	tb.Helper()
	return openSocketWith(tb, s, upgrade+early)
}

func openSocketWith(tb testing.TB, s *server, request string) (*net.TCPConn, *bufio.Reader) {
	tb.Helper()
	c, r := dialSite(tb, s)
	if _, err := io.WriteString(c, request); err != nil {
		tb.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		tb.Fatalf("reading the answer to the upgrade: %v", err)
	}
	expect(tb, "status", res.StatusCode, http.StatusSwitchingProtocols)
	expect(tb, "Upgrade", res.Header.Get("Upgrade"), "websocket")
	expect(tb, "Sec-WebSocket-Accept", res.Header.Get("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
	return c, r
}

func readFull(tb testing.TB, r io.Reader, n int) string {
	tb.Helper()
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		tb.Fatalf("reading %d bytes: %v", n, err)
	}
	return string(buf)
}

func readAll(tb testing.TB, r io.Reader) string {
	tb.Helper()
	got, err := io.ReadAll(r)
	if err != nil {
		tb.Fatalf("reading to the end: %v after %d bytes", err, len(got))
	}
	return string(got)
}

// echo sends back what it gets, to the end.
func echo(c *net.TCPConn, r *bufio.Reader) {
	_, _ = io.Copy(c, r)
	_ = c.CloseWrite()
}

func TestStockSocketBytesBothWays(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, switching, echo))
		c, r := openSocket(t, s, "")
		for i := range 20 {
			msg := fmt.Sprintf("message %d", i)
			_, _ = io.WriteString(c, msg)
			expect(t, "echo", readFull(t, r, len(msg)), msg)
		}
		_ = c.CloseWrite()
		expect(t, "after the end", readAll(t, r), "")
	})
}

// What either side sends together with its header must not be lost.
func TestStockSocketEarlyBytes(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, switching+"welcome", echo))
		c, r := openSocket(t, s, "early")
		expect(t, "greeting", readFull(t, r, len("welcome")), "welcome")
		expect(t, "echo of the early bytes", readFull(t, r, len("early")), "early")
		_ = c.CloseWrite()
		expect(t, "after the end", readAll(t, r), "")
	})
}

func TestStockSocketClientHalfCloses(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, switching, func(c *net.TCPConn, r *bufio.Reader) {
			got, err := io.ReadAll(r)
			fmt.Fprintf(c, "read %q to the end: %v", got, err)
		}))
		c, r := openSocket(t, s, "")
		_, _ = io.WriteString(c, "all I have")
		_ = c.CloseWrite()
		expect(t, "the origin", readAll(t, r), `read "all I have" to the end: <nil>`)
	})
}

func TestStockSocketOriginHalfCloses(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		got := make(chan int, 1)
		s := serve(t, directive+" "+socketOrigin(t, switching, func(c *net.TCPConn, r *bufio.Reader) {
			_, _ = io.WriteString(c, "all I have")
			_ = c.CloseWrite()
			rest, _ := io.ReadAll(r)
			got <- len(rest)
		}))
		c, r := openSocket(t, s, "")
		expect(t, "the client", readAll(t, r), "all I have")
		_, _ = c.Write(make([]byte, 100_000))
		_ = c.CloseWrite()
		expect(t, "bytes after the origin's end", receive(t, "the origin's count", got), 100_000)
	})
}

func TestStockSocketLargeTransfer(t *testing.T) {
	data := faultinject.Bytes(8 << 20)
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, switching, echo))
		c, r := openSocket(t, s, "")
		go func() {
			_, _ = c.Write(data)
			_ = c.CloseWrite()
		}()
		if got := readAll(t, r); !bytes.Equal([]byte(got), data) {
			t.Errorf("echo: got %d bytes that differ from the %d sent", len(got), len(data))
		}
	})
}

// An origin that goes away ends the client's side too.
func TestStockSocketOriginResets(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, switching+"so far", func(c *net.TCPConn, _ *bufio.Reader) {
			_, _ = io.ReadFull(c, make([]byte, 3))
			_ = c.SetLinger(0)
		}))
		c, r := openSocket(t, s, "")
		expect(t, "before the reset", readFull(t, r, 6), "so far")
		_, _ = io.WriteString(c, "now")
		if _, err := r.ReadByte(); err == nil {
			t.Error("got a byte after the origin had reset the connection")
		}
	})
}

// An answer other than 101 is passed on as it is.
func TestStockSocketRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+socketOrigin(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Why: policy\r\n\r\nnot you", nil))
		c, r := dialSite(t, s)
		_, _ = io.WriteString(c, upgrade)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := readAnswer(t, res)
		expect(t, "status", got.status, http.StatusForbidden)
		expect(t, "body", got.body, "not you")
		expect(t, "X-Why", got.header.Get("X-Why"), "policy")
	})
}

// Old servers want the header fields as RFC 6455 writes them.
func TestStockSocketHeaderCase(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		head := make(chan string, 1)
		s := serve(t, directive+" "+tcpOrigin(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			var b strings.Builder
			for !strings.HasSuffix(b.String(), "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				b.WriteString(line)
			}
			head <- b.String()
			_, _ = io.WriteString(c, switching)
		}))
		openSocket(t, s, "")
		for _, line := range []string{"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n"} {
			if got := receiveOnce(t, head); !strings.Contains(got, line) {
				t.Errorf("the origin got %q, want it to contain %q", got, line)
			}
		}
	})
}

// receiveOnce gets the value and puts it back for the next look.
func receiveOnce(tb testing.TB, c chan string) string {
	tb.Helper()
	v := receive(tb, "the origin's view of the request", c)
	c <- v
	return v
}

// A socket is opened with GET, so the guard finds an origin that is alive. What
// comes after the switch is out of its hands.
func TestGuardSocketFailsOver(t *testing.T) {
	for _, fault := range []faultinject.Fault{faultinject.Refuse, faultinject.ResetOnAccept, faultinject.CloseAfterRequest, faultinject.Status503} {
		t.Run(string(fault), func(t *testing.T) {
			leaveNothing(t)
			bad := startOrigin(t, faultinject.Config{Fault: fault})
			s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n }", guarded, bad.Addr(), socketOrigin(t, switching, echo)))
			c, r := openSocket(t, s, "")
			_, _ = io.WriteString(c, "hello")
			_ = c.CloseWrite()
			expect(t, "echo", readAll(t, r), "hello")
			if len(s.faults(t)) == 0 {
				t.Error("the fault was not logged")
			}
		})
	}
}
