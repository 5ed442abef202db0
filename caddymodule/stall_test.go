// SPDX-License-Identifier: Apache-2.0

// Stalls, through a real Caddy: an origin that has fallen silent is at fault in
// every phase, and one that may be silent is not.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// stallAfter is the time allowed in these tests; what is not to be disturbed is
// silent for several times as long.
const (
	stallAfter = 200 * time.Millisecond
	silence    = 4 * stallAfter
)

func withStall(upstreams string) string {
	return fmt.Sprintf("reset_guard %s {\n\tlb_policy first\n\tfailover {\n\t\tstall %s\n\t}\n}", upstreams, stallAfter)
}

// silentListener accepts connections and reads nothing.
func silentListener(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String()
}

// TestStallIsAFault: the request goes to the other origin.
func TestStallIsAFault(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault faultinject.Fault // none: the origin reads nothing
		body  int
		phase string
	}{
		{"before the header", faultinject.StallBeforeHeaders, 0, "wait"},
		{"within the header", faultinject.StallInHeaders, 0, "headers"},
		{"an upload that is not taken", "", 32 << 20, "write"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			good := startOrigin(t, faultinject.Config{Name: "good"})
			bad := ""
			if tc.fault == "" {
				bad = silentListener(t)
			} else {
				bad = startOrigin(t, faultinject.Config{Fault: tc.fault}).Addr()
			}
			site := serve(t, withStall(join(bad, good.Addr())))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, site.url("/bytes/100"), bytes.NewReader(make([]byte, tc.body)))
			if err != nil {
				t.Fatal(err)
			}
			res, err := newClient(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 || res.Header.Get("X-Origin") != "good" {
				t.Errorf("got %s from %q and %v", res.Status, res.Header.Get("X-Origin"), err)
			}
			l := site.faults(t)[0]
			if l.text("cause") != "timeout" || l.text("phase") != tc.phase || l.text("side") != "upstream" || l.text("action") != "retried" {
				t.Errorf("got %v, want a timeout in phase %s", l, tc.phase)
			}
		})
	}
}

// TestStallSendsNothingTwice: a POST that was sent is answered with 504.
func TestStallSendsNothingTwice(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.StallBeforeHeaders})
	good := startOrigin(t, faultinject.Config{})
	site := serve(t, withStall(join(bad.Addr(), good.Addr())))
	res, err := newClient(t).Post(site.url("/"), "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got %s, want 504", res.Status)
	}
}

// TestStallOverHTTP2: one stream stalls on a connection on which others do not.
func TestStallOverHTTP2(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.StallInBody, Protocol: faultinject.H2C, ETag: `"1"`, After: 300 << 10})
	good := startOrigin(t, faultinject.Config{Protocol: faultinject.H2C, ETag: `"1"`})
	site := serve(t, withStall("h2c://"+bad.Addr()+" h2c://"+good.Addr()))
	_, got, err := get(t, newClient(t), site.url("/bytes/1000000"))
	if err != nil || !bytes.Equal(got, faultinject.Bytes(1000000)) {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

// TestSilenceIsNoStall: everything here is silent for long, and arrives.
func TestSilenceIsNoStall(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request http.Header
		handler http.HandlerFunc
	}{
		{"event stream", nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			silentFor(w, r)
		}},
		{"event stream that begins late", http.Header{"Accept": {"text/event-stream"}}, func(w http.ResponseWriter, r *http.Request) {
			wait(r.Context())
			silentFor(w, r)
		}},
		{"gRPC that begins late", http.Header{"Content-Type": {"application/grpc+proto"}}, func(w http.ResponseWriter, r *http.Request) {
			wait(r.Context())
			silentFor(w, r)
		}},
		{"chunked long poll", nil, silentFor},
		{"incremental", nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Incremental", "?1")
			w.Header().Set("Content-Length", "2")
			silentFor(w, r)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := httptest.NewServer(tc.handler)
			t.Cleanup(srv.Close)
			site := serve(t, withStall(srv.Listener.Addr().String()))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.url("/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.request != nil {
				req.Header = tc.request
			}
			res, err := newClient(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "ab" || res.StatusCode != 200 {
				t.Errorf("got %s, %q and %v", res.Status, got, err)
			}
		})
	}
}

// silentFor answers "ab", with a long pause within.
func silentFor(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "a")
	_ = http.NewResponseController(w).Flush()
	wait(r.Context())
	_, _ = io.WriteString(w, "b")
}

// wait is what these origins do; nothing is waited for in its stead.
func wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	<-ctx.Done()
}

// TestSilentWebSocketIsNoStall: both ends may be silent once it is upgraded.
func TestSilentWebSocketIsNoStall(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		wait(r.Context())
		fmt.Fprint(conn, line)
	}))
	t.Cleanup(srv.Close)
	site := serve(t, withStall(srv.Listener.Addr().String()))
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", site.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", site.addr)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v and %v", res, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := br.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("got %q and %v", line, err)
	}
}

// TestSlowClientsAreNoStall: one that takes its answer slowly, and one that sends
// its request slowly.
func TestSlowClientsAreNoStall(t *testing.T) {
	want := faultinject.Bytes(24 << 20) // more than all buffers on the way
	origin := (&cutter{content: want, edit: func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Errorf("reading the upload: %v", err)
		}
	}}).start(t)
	site := serve(t, withStall(origin.addr))
	res, err := newClient(t).Get(site.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wait(t.Context())
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("slow reader: got %d bytes and %v", len(got), err)
	}
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, "half, ")
		wait(t.Context())
		_, _ = io.WriteString(pw, "and half")
		_ = pw.Close()
	}()
	up, err := newClient(t).Post(site.url("/"), "text/plain", pr)
	if err != nil {
		t.Fatal(err)
	}
	up.Body.Close()
	if up.StatusCode != http.StatusOK || len(site.faults(t)) > 0 {
		t.Errorf("slow writer: got %s and %v", up.Status, site.faults(t))
	}
}
