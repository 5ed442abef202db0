// SPDX-License-Identifier: Apache-2.0

// What surrounds a message: trailers of requests and responses, interim
// responses, 100-continue.

package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

const (
	trailersAnnounced = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n%s\r\n" +
		"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
	trailersUnannounced = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n%s\r\n" +
		"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
)

// tellTrailers answers with the request's body and what came behind it.
func tellTrailers(w http.ResponseWriter, r *http.Request) {
	announced := len(r.Trailer)
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %v announced=%d X-Sum=%s", body, err, announced, r.Trailer.Get("X-Sum"))
}

func sendRaw(tb testing.TB, s *server, request string) answer {
	tb.Helper()
	c, r := dialSite(tb, s)
	if _, err := io.WriteString(c, request); err != nil {
		tb.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		tb.Fatalf("reading the answer: %v", err)
	}
	return readAnswer(tb, res)
}

func TestStockRequestTrailers(t *testing.T) {
	for _, c := range []struct{ name, request, options, want string }{
		{"announced", trailersAnnounced, "", "hello <nil> announced=1 X-Sum=42"},
		{"unannounced", trailersUnannounced, "", "hello <nil> announced=0 X-Sum="},
		{"announced and buffered", trailersAnnounced, "request_buffers 1MiB", "hello <nil> announced=1 X-Sum=42"},
		{"announced to h2c", trailersAnnounced, "transport http {\n versions h2c\n }", "hello <nil> announced=1 X-Sum=42"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				srv := httptest.NewUnstartedServer(http.HandlerFunc(tellTrailers))
				srv.Config.Protocols = new(http.Protocols)
				srv.Config.Protocols.SetHTTP1(true)
				srv.Config.Protocols.SetUnencryptedHTTP2(true)
				s := serve(t, fmt.Sprintf("%s %s {\n %s\n }", directive, startHTTP(t, srv), c.options))
				expect(t, "what the origin got", sendRaw(t, s, fmt.Sprintf(c.request, "")).body, c.want)
			})
		})
	}
}

// Trailers belong to the body and are sent again with it.
func TestGuardRepeatsRequestTrailers(t *testing.T) {
	for _, fault := range []faultinject.Fault{faultinject.Refuse, faultinject.CloseAfterRequest, faultinject.ResetInUpload} {
		t.Run(string(fault), func(t *testing.T) {
			leaveNothing(t)
			bad := startOrigin(t, faultinject.Config{Fault: fault})
			s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n }", guarded, bad.Addr(), origin(t, tellTrailers)))
			got := sendRaw(t, s, fmt.Sprintf(trailersAnnounced, "Idempotency-Key: 1\r\n"))
			expect(t, "what the second origin got", got.body, "hello <nil> announced=1 X-Sum=42")
		})
	}
}

// trailerOrigin sends a body, in two parts if pause is not nil, and trailers.
func trailerOrigin(body string, announce bool, pause <-chan bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		name := http.TrailerPrefix + "X-Sum"
		if announce {
			name = "X-Sum"
			w.Header().Set("Trailer", name)
		}
		_, _ = io.WriteString(w, body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		if pause != nil {
			<-pause
		}
		_, _ = io.WriteString(w, body[len(body)/2:])
		w.Header().Set(name, "42")
	}
}

func TestStockResponseTrailers(t *testing.T) {
	bodies := map[string]string{
		"small": "hello",
		"large": strings.Repeat("hello", 50_000),
	}
	for size, body := range bodies {
		for _, announce := range []bool{true, false} {
			for _, h2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s announced=%v h2c=%v", size, announce, h2), func(t *testing.T) {
					onBoth(t, func(t *testing.T, directive string) {
						srv := httptest.NewUnstartedServer(trailerOrigin(body, announce, nil))
						srv.Config.Protocols = new(http.Protocols)
						srv.Config.Protocols.SetHTTP1(!h2)
						srv.Config.Protocols.SetUnencryptedHTTP2(h2)
						s := serve(t, directive+" "+map[bool]string{true: "h2c://"}[h2]+startHTTP(t, srv))
						got := s.get(t, "/")
						expect(t, "body", len(got.body), len(body))
						expect(t, "trailer", got.trailer.Get("X-Sum"), "42")
					})
				})
			}
		}
	}
}

// The trailers may come long after the part that was held.
func TestStockLateResponseTrailers(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		pause := make(chan bool)
		s := serve(t, directive+" "+origin(t, trailerOrigin("hello", true, pause)))
		res, err := newClient(t).Do(newRequest(t, http.MethodGet, s.url("/"), nil))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "first part", readFull(t, res.Body, 2), "he")
		close(pause)
		got := readAnswer(t, res)
		expect(t, "rest", got.body, "llo")
		expect(t, "trailer", got.trailer.Get("X-Sum"), "42")
	})
}

func TestStockEarlyHints(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, "header X-Site site\n"+directive+" "+origin(t, func(w http.ResponseWriter, _ *http.Request) {
			for _, link := range []string{"</style.css>", "</font.woff>"} {
				w.Header().Set("Link", link)
				w.WriteHeader(http.StatusEarlyHints)
			}
			w.Header().Set("Link", "</last.js>")
			_, _ = io.WriteString(w, "body")
		}))
		var hints []string
		req := newRequest(t, http.MethodGet, s.url("/"), nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, header["Link"]))
				return nil
			},
		}))
		got := do(t, newClient(t), req)
		expect(t, "hints", strings.Join(hints, " "), "103 [</style.css>] 103 [</font.woff>]")
		expect(t, "Link", strings.Join(got.header["Link"], " "), "</last.js>")
		expect(t, "X-Site", got.header.Get("X-Site"), "site")
		expect(t, "body", got.body, "body")
	})
}

// A hint that an origin gave before it failed does no harm.
func TestGuardFailsOverAfterEarlyHints(t *testing.T) {
	leaveNothing(t)
	bad := tcpOrigin(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
		}
	})
	s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n }", guarded, bad, origin(t, named("good"))))
	got := s.get(t, "/")
	expect(t, "body", got.body, "good")
	expect(t, "Link in the final answer", got.header.Get("Link"), "")
}

const expectContinue = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

// A client that asks first gets its 100 when the origin wants the body.
func TestStockContinue(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, directive+" "+origin(t, describe))
		c, r := dialSite(t, s)
		_, _ = io.WriteString(c, expectContinue)
		interim, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "interim response", interim.StatusCode, http.StatusContinue)
		_, _ = io.WriteString(c, "hello")
		expect(t, "body", readFinal(t, r).body, "HTTP/1.1 - POST 5 <nil>")
	})
}

// An origin that refuses before it has seen the body is not sent it. Go's server
// asks the client for it nevertheless, to keep the connection in order.
func TestStockRefusalInsteadOfContinue(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		uploaded := make(chan int64, 1)
		addr := tcpOrigin(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwho?")
			_ = c.(*net.TCPConn).CloseWrite()
			n, _ := io.Copy(io.Discard, r)
			uploaded <- n
		})
		s := serve(t, fmt.Sprintf("%s %s {\n transport http {\n expect_continue_timeout 30s\n }\n }", directive, addr))
		c, r := dialSite(t, s)
		_, _ = io.WriteString(c, expectContinue+"hello")
		got := readFinal(t, r)
		expect(t, "status", got.status, http.StatusUnauthorized)
		expect(t, "body", got.body, "who?")
		expect(t, "bytes that the origin got", receive(t, "the end of the upload", uploaded), 0)
	})
}

// readFinal reads over interim responses.
func readFinal(tb testing.TB, r *bufio.Reader) answer {
	tb.Helper()
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			tb.Fatalf("reading the answer: %v", err)
		}
		if res.StatusCode >= 200 {
			return readAnswer(tb, res)
		}
	}
}
