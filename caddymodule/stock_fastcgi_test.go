// SPDX-License-Identifier: Apache-2.0

// Other transports than http are wrapped as well: FastCGI. Their connections
// are not seen, so the guard knows less of what was sent.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// fcgiOrigin is a FastCGI responder.
func fcgiOrigin(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fcgi.Serve(ln, handler) }()
	tb.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}

// describeScript answers with what the responder got.
func describeScript(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	env := fcgi.ProcessEnv(r)
	fmt.Fprintf(w, "%s %s %s %d %v", r.Method, env["SCRIPT_FILENAME"], r.URL.RawQuery, n, err)
}

func serveFastCGI(tb testing.TB, directive string, addrs ...string) *server {
	return serve(tb, fmt.Sprintf(`%s %s {
		lb_policy first
		transport fastcgi {
			root /srv
			split .php
		}
	}`, directive, join(addrs...)))
}

func TestStockFastCGI(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serveFastCGI(t, directive, fcgiOrigin(t, describeScript))
		expect(t, "GET", s.get(t, "/index.php?a=b").body, "GET /srv/index.php a=b 0 <nil>")
		for name, body := range map[string]io.Reader{
			"POST":         bytes.NewReader(make([]byte, 100_000)),
			"POST chunked": io.MultiReader(bytes.NewReader(make([]byte, 1000))), // as much as Caddy buffers
		} {
			got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/up.php"), body))
			want := map[string]string{"POST": "POST /srv/up.php  100000 <nil>", "POST chunked": "POST /srv/up.php  1000 <nil>"}[name]
			expect(t, name, got.body, want)
		}
	})
}

func TestStockFastCGIDead(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf("%s %s {\n transport fastcgi\n %s\n }", directive, deadAddr(t), onceIf(directive)))
		expect(t, "status", s.get(t, "/index.php").status, http.StatusBadGateway)
	})
}

// One dead and one good responder.
func TestGuardFastCGIFailsOver(t *testing.T) {
	for name, bad := range map[string]func(*testing.T) string{
		"refuses": func(t *testing.T) string { return deadAddr(t) },
		"resets": func(t *testing.T) string {
			return startOrigin(t, faultinject.Config{Fault: faultinject.ResetOnAccept}).Addr()
		},
		"closes": func(t *testing.T) string {
			return startOrigin(t, faultinject.Config{Fault: faultinject.CloseOnAccept}).Addr()
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			s := serveFastCGI(t, guarded, bad(t), fcgiOrigin(t, describeScript))
			expect(t, "GET", s.get(t, "/index.php").body, "GET /srv/index.php  0 <nil>")
			put := do(t, newClient(t), newRequest(t, http.MethodPut, s.url("/up.php"), strings.NewReader(strings.Repeat("x", 50_000))))
			expect(t, "PUT", put.body, "PUT /srv/up.php  50000 <nil>")
			for _, l := range s.faults(t) {
				expect(t, "action", l.text("action"), "retried")
			}
		})
	}
}

// A POST that was refused a connection may go on to another responder; one that
// was cut off may not.
func TestGuardFastCGIPost(t *testing.T) {
	cutOff := func(t *testing.T) string {
		return tcpOrigin(t, func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 24)) })
	}
	for name, c := range map[string]struct {
		bad    func(*testing.T) string
		status int
	}{
		"refused": {func(t *testing.T) string { return deadAddr(t) }, http.StatusOK},
		"cut off": {cutOff, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			s := serveFastCGI(t, guarded, c.bad(t), fcgiOrigin(t, describeScript))
			got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/up.php"), strings.NewReader("x=y")))
			expect(t, "status", got.status, c.status)
		})
	}
}

// pausing is a responder that pauses within an answer of a known length.
func pausing(pause <-chan bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "8")
		_, _ = io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		<-pause
		_, _ = io.WriteString(w, "end")
	}
}

// An answer that comes bit by bit.
func TestStockFastCGIStream(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		pause := make(chan bool)
		s := serve(t, fmt.Sprintf("%s %s {\n transport fastcgi\n flush_interval 1ms\n }", directive, fcgiOrigin(t, pausing(pause))))
		res, err := newClient(t).Do(newRequest(t, http.MethodGet, s.url("/index.php"), nil))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "first part", readFull(t, res.Body, 5), "begin")
		close(pause)
		expect(t, "rest", readAnswer(t, res).body, "end")
	})
}

// A handler may throw the response away while the guard still reads it.
func TestStockFastCGIThrownAway(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		pause := make(chan bool)
		s := serve(t, fmt.Sprintf("%s %s {\n transport fastcgi\n handle_response {\n respond instead\n }\n }", directive, fcgiOrigin(t, pausing(pause))))
		expect(t, "body", s.get(t, "/index.php").body, "instead")
		close(pause)
	})
}

// An answer that breaks off while it is held is asked for elsewhere.
func TestGuardFastCGIBrokenAnswer(t *testing.T) {
	leaveNothing(t)
	bad := tcpOrigin(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 24))
		text := "Content-Length: 1000\r\n\r\nonly the beginning"
		record := append([]byte{1, 6, 0, 1, 0, byte(len(text)), 0, 0}, text...) // FCGI_STDOUT
		_, _ = c.Write(record)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	s := serveFastCGI(t, guarded, bad, fcgiOrigin(t, describeScript))
	expect(t, "body", s.get(t, "/index.php").body, "GET /srv/index.php  0 <nil>")
}
