// SPDX-License-Identifier: Apache-2.0

// Clients whose timing makes a correct origin end the exchange: uploads of which nothing
// comes, and answers that are not taken. The sleeps are their pace.

package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// nobodyBlamed checks that nobody was taken out, and nothing learned of anybody.
func nobodyBlamed(t *testing.T, s *server) {
	t.Helper()
	for _, msg := range []string{"upstream ejected", "all upstreams fail alike", "upstream gives up idle connections"} {
		if lines := s.told(t, msg); len(lines) > 0 {
			t.Errorf("%d lines %q: %v", len(lines), msg, lines[0])
		}
	}
}

// impatient gives up an upload of which nothing has come for so long, without an answer,
// as nginx does after client_body_timeout. It answers everything else.
func impatient(patience time.Duration) func(*testing.T) string {
	return func(t *testing.T) string {
		return tcpOrigin(t, func(c net.Conn) {
			for r := bufio.NewReader(c); ; {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				for buf := make([]byte, 4096); err == nil; {
					_ = c.SetReadDeadline(time.Now().Add(patience))
					_, err = req.Body.Read(buf)
				}
				if err != io.EOF {
					return
				}
				_ = c.SetReadDeadline(time.Time{})
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		})
	}
}

// ordinary reads what it gets and answers.
func ordinary(t *testing.T) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	})
}

func TestSilentUploadsEjectNobody(t *testing.T) {
	for name, tc := range map[string]struct {
		origin  func(*testing.T) string
		options string
		side    string
	}{
		"the origins give up":       {impatient(time.Second), "lb_policy round_robin", "upstream"},
		"one of them gives up":      {impatient(time.Second), "lb_policy header X-To {\n fallback round_robin\n }", "upstream"},
		"they give up after long":   {impatient(5500 * time.Millisecond), "lb_policy round_robin", "client"},
		"read_timeout of the proxy": {ordinary, "lb_policy round_robin\n transport http {\n read_timeout 1s\n }", "client"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "reset_guard "+join(tc.origin(t), tc.origin(t), tc.origin(t))+" {\n"+tc.options+"\n}")
			for range 12 { // connections to be used again
				expect(t, "status", s.get(t, "/").status, http.StatusOK)
			}
			var all sync.WaitGroup
			for i := range 30 {
				all.Go(func() {
					method := []string{http.MethodPost, http.MethodPut}[i%2]
					_, _ = s.askText(method + " / HTTP/1.1\r\nHost: " + s.addr + "\r\nX-To: a\r\nContent-Length: 100\r\n\r\nsome")
				})
				time.Sleep(10 * time.Millisecond)
			}
			all.Wait()
			nobodyBlamed(t, s)
			for _, l := range s.faults(t) {
				if l.text("cause") != "client_gone" && l.text("side") != tc.side {
					t.Fatalf("got %v, want the side %s", l, tc.side)
				}
			}
		})
	}
}

// Servers end an answer that is not taken within their limit of time, and one of a
// request of which they have not read the body.
func TestSlowReadersEjectNobody(t *testing.T) {
	const size = 16 << 20
	big := strings.Repeat("x", size)
	for name, tc := range map[string]struct {
		limit  time.Duration
		upload int
	}{
		"answer not taken": {time.Second, 0},
		"body not read":    {0, size},
	} {
		t.Run(name, func(t *testing.T) {
			var origins []string
			for range 3 {
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/" {
						http.ServeContent(w, r, "", time.Time{}, strings.NewReader(big))
					}
				}))
				srv.Config.WriteTimeout = tc.limit
				srv.Start()
				t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
				origins = append(origins, srv.Listener.Addr().String())
			}
			s := serve(t, "reset_guard "+join(origins...)+" {\n lb_policy round_robin\n}")
			for range 12 {
				expect(t, "status", s.get(t, "/").status, http.StatusOK)
			}
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					conn, err := net.Dial("tcp", s.addr)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(patience))
					all.Go(func() {
						_, _ = fmt.Fprintf(conn, "GET /big HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", s.addr, tc.upload)
						_, _ = conn.Write(make([]byte, tc.upload))
					})
					for range 40 { // 2 s in all
						if _, err := io.CopyN(io.Discard, conn, 128<<10); err != nil {
							return
						}
						time.Sleep(50 * time.Millisecond)
					}
				})
			}
			all.Wait()
			nobodyBlamed(t, s)
		})
	}
}

// A request with a body of which the origin reads nothing uses up the window that all
// on an HTTP/2 connection share, and other uploads stall.
func TestUnreadBodiesEjectNobody(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, strings.Replace(guardOf(t, "h2c", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/poll" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}), "stall 3s", "stall 500ms", 1))
	defer close(release)
	expect(t, "status", s.get(t, "/").status, http.StatusOK)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer conn.Close()
	sending.Go(func() {
		_, _ = fmt.Fprintf(conn, "GET /poll HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nContent-Length: 20000000\r\n\r\n", s.addr)
		_, _ = conn.Write(make([]byte, 20_000_000))
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			req := newRequest(t, http.MethodPut, s.url("/up"), strings.NewReader(strings.Repeat("x", 30_000)))
			expect(t, "status of an upload", do(t, newClient(t), req).status, http.StatusOK)
		})
		time.Sleep(50 * time.Millisecond)
	}
	all.Wait()
	nobodyBlamed(t, s)
}

// An origin that crashes in every upload of many clients is found, although they send in
// bursts with pauses of a second.
func TestCrashInUploadsOfManyIsFound(t *testing.T) {
	bad := tcpOrigin(t, func(c net.Conn) {
		for br := bufio.NewReader(c); ; {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.Method == http.MethodPost {
				time.Sleep(700 * time.Millisecond)
				_ = c.(*net.TCPConn).SetLinger(0)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	s := serveConfig(t, "", trustingSite, "reset_guard "+join(bad, ordinary(t), ordinary(t))+" {\nlb_policy round_robin\n}")
	for range 12 {
		s.get(t, "/")
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: 192.0.2.%d\r\nContent-Length: 8\r\n\r\nsome", s.addr, i)
			go func() { time.Sleep(time.Second); _, _ = io.WriteString(conn, "more") }()
			_, _ = http.ReadResponse(bufio.NewReader(conn), nil)
		})
		time.Sleep(50 * time.Millisecond)
	}
	all.Wait()
	if len(s.told(t, "upstream ejected")) == 0 {
		t.Errorf("the origin that crashes in every upload of 60 clients was not found")
	}
}
