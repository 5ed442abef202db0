// SPDX-License-Identifier: Apache-2.0

// What the stock_*_test.go files share: they run one scenario through
// reverse_proxy and through reset_guard, and what the client and the origin see
// must not differ.

package caddymodule_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// stock and guarded are the directives that are compared.
const (
	stock   = "reverse_proxy"
	guarded = "reset_guard"
)

// patience bounds every wait for something that must come. No test waits that
// long unless it fails.
const patience = 10 * time.Second

// onBoth runs test with each directive. What test started must be gone after it.
func onBoth(t *testing.T, test func(t *testing.T, directive string)) {
	t.Helper()
	for _, directive := range []string{stock, guarded} {
		t.Run(directive, func(t *testing.T) {
			leaveNothing(t)
			test(t, directive)
		})
	}
}

// leaveNothing fails the test if goroutines outlive it, Caddy's stop included.
// TestMain does the same for all tests together; this one names the test.
func leaveNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(append(ofTheProcess(), before)...); err != nil {
			t.Errorf("goroutines were left behind: %v", err)
		}
	})
}

// origin serves handler on a free port of loopback until the test ends.
func origin(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	return startHTTP(tb, httptest.NewUnstartedServer(handler))
}

// startHTTP starts a server without TLS and returns its address.
func startHTTP(tb testing.TB, srv *httptest.Server) string {
	tb.Helper()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// startHTTPS starts a server with TLS and returns its address. Its certificate
// is httptest's, for example.com and 127.0.0.1.
func startHTTPS(tb testing.TB, srv *httptest.Server) string {
	tb.Helper()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// trustPool is the option of transport http that trusts srv.
func trustPool(srv *httptest.Server) string {
	return fmt.Sprintf("tls_trust_pool inline {\n trust_der %s\n }", base64.StdEncoding.EncodeToString(srv.Certificate().Raw))
}

// named answers every request with its name.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }
}

// tcpOrigin calls serve with each connection, and waits for all of them when
// the test ends.
func tcpOrigin(tb testing.TB, serve func(c net.Conn)) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				serve(c)
			})
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// deadAddr is an address that refuses connections: none that freeAddr gives.
func deadAddr(tb testing.TB) string { return freeAddrFrom(tb, 30000, 2700) }

// answer is what a client got.
type answer struct {
	status  int
	body    string
	header  http.Header
	trailer http.Header
	proto   string
}

// do sends a request and reads the whole answer.
func do(tb testing.TB, client *http.Client, req *http.Request) answer {
	tb.Helper()
	res, err := client.Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return readAnswer(tb, res)
}

func readAnswer(tb testing.TB, res *http.Response) answer {
	tb.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("reading the body of a %d: %v", res.StatusCode, err)
	}
	return answer{status: res.StatusCode, body: string(body), header: res.Header, trailer: res.Trailer, proto: res.Proto}
}

// get requests path with a client of its own.
func (s *server) get(tb testing.TB, path string, header ...string) answer {
	tb.Helper()
	return do(tb, newClient(tb), newRequest(tb, http.MethodGet, s.url(path), nil, header...))
}

// newRequest makes a request with header fields given as name, value, ...; the
// field Host sets the request's host.
func newRequest(tb testing.TB, method, url string, body io.Reader, header ...string) *http.Request {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	tb.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Add(header[i], header[i+1])
		}
	}
	return req
}

// dialSite connects to the site, for tests that write HTTP/1 by hand.
func dialSite(tb testing.TB, s *server) (*net.TCPConn, *bufio.Reader) {
	tb.Helper()
	c, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn), bufio.NewReader(c)
}

// accessLines returns the lines of the access log, which the directive log
// writes.
func (s *server) accessLines(tb testing.TB) []logLine {
	tb.Helper()
	var lines []logLine
	for _, l := range s.lines(tb) {
		if strings.HasPrefix(l.text("logger"), "http.log.access") {
			lines = append(lines, l)
		}
	}
	return lines
}

// accessStatus waits for the n-th line of the access log and returns its status.
func (s *server) accessStatus(tb testing.TB, n int) int {
	tb.Helper()
	var lines []logLine
	eventually(tb, fmt.Sprintf("line %d of the access log", n), func() bool {
		lines = s.accessLines(tb)
		return len(lines) >= n
	})
	status, _ := lines[n-1]["status"].(float64)
	return int(status)
}

// receive waits for a value that must come.
func receive[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

// expect compares one thing that was seen.
func expect[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: got %v, want %v", what, got, want)
	}
}
