// SPDX-License-Identifier: Apache-2.0

// The client's own doing: leaving, breaking off an upload, sending too much or
// too slowly. None of it is the origin's fault.

package caddymodule_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// failsHeader tells how many failures of the chosen upstream are remembered.
const failsHeader = "header_down X-Fails {http.reverse_proxy.upstream.fails}"

// Leaving is 499 in the access log and no failure of the origin's.
func TestStockLeavingIsNoFailure(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		arrived := make(chan bool, 1)
		addr := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				arrived <- true
				<-r.Context().Done()
			}
		})
		s := serve(t, fmt.Sprintf("log\n%s %s {\n fail_duration 1m\n max_fails 3\n %s\n }", directive, addr, failsHeader))
		req := newRequest(t, http.MethodGet, s.url("/slow"), nil)
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		go func() {
			<-arrived
			cancel()
		}()
		// On a slow machine Caddy's 499 may be faster than the client is in leaving.
		if res, err := newClient(t).Do(req.WithContext(ctx)); !errors.Is(err, context.Canceled) && (err != nil || res.StatusCode != 499) {
			t.Fatalf("got %v, %v, want %v", res, err, context.Canceled)
		}
		expect(t, "status in the access log", s.accessStatus(t, 1), 499)
		expect(t, "failures", s.get(t, "/").header.Get("X-Fails"), "0")
	})
}

// So it is in the middle of a response: there the status was sent already.
func TestStockLeavingInMidResponse(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		gone := make(chan bool, 1)
		addr := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/endless" {
				return
			}
			for {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					gone <- true
					return
				}
			}
		})
		s := serve(t, fmt.Sprintf("log\n%s %s {\n fail_duration 1m\n max_fails 3\n %s\n }", directive, addr, failsHeader))
		c, r := dialSite(t, s)
		_, _ = io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		_ = readFull(t, r, 200_000)
		_ = c.Close()
		receive(t, "the origin notices", gone)
		expect(t, "status in the access log", s.accessStatus(t, 1), http.StatusOK)
		expect(t, "failures", s.get(t, "/").header.Get("X-Fails"), "0")
	})
}

// Caddy's proxy counts an upload that breaks off against the origin, or not, as
// chance has it. The guard never does.
func TestGuardBrokenUploadIsNoFailure(t *testing.T) {
	leaveNothing(t)
	addr := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	s := serve(t, fmt.Sprintf("log\n%s %s {\n fail_duration 1m\n max_fails 1\n %s\n }", guarded, addr, failsHeader))
	for i := range 10 {
		c, _ := dialSite(t, s)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 50_000))
		if i%2 == 0 {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
		expect(t, "status in the access log", s.accessStatus(t, 2*i+1), 499)
		got := s.get(t, "/")
		expect(t, "status of an honest request", got.status, http.StatusOK)
		expect(t, "failures", got.header.Get("X-Fails"), "0")
	}
}

// A body over the operator's limit is 413, with a declared length or without,
// and whether the origin is alive or not is not asked.
func TestStockTooLargeUpload(t *testing.T) {
	body := strings.Repeat("x", 10_000)
	for name, request := range map[string]string{
		"declared": "Content-Length: 10000\r\n\r\n" + body,
		"chunked":  "Transfer-Encoding: chunked\r\n\r\n2710\r\n" + body + "\r\n0\r\n\r\n",
	} {
		for _, options := range []string{"", "request_buffers 1MiB"} {
			t.Run(name+" "+options, func(t *testing.T) {
				onBoth(t, func(t *testing.T, directive string) {
					s := serve(t, fmt.Sprintf("request_body {\n max_size 1KB\n }\n%s %s {\n %s\n fail_duration 1m\n %s\n }",
						directive, origin(t, describe), options, failsHeader))
					got := sendRaw(t, s, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"+request)
					expect(t, "status", got.status, http.StatusRequestEntityTooLarge)
				})
			})
		}
	}
}

// A body within the limit passes, and one over it is no fault in the log.
func TestGuardTooLargeUploadIsNoFault(t *testing.T) {
	leaveNothing(t)
	s := serve(t, fmt.Sprintf("request_body {\n max_size 1KB\n }\n%s %s {\n fail_duration 1m\n %s\n }", guarded, origin(t, describe), failsHeader))
	over := sendRaw(t, s, "PUT / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000\r\n\r\n"+strings.Repeat("x", 2000))
	expect(t, "status over the limit", over.status, http.StatusRequestEntityTooLarge)
	within := do(t, newClient(t), newRequest(t, http.MethodPut, s.url("/"), strings.NewReader("small")))
	expect(t, "status within the limit", within.status, http.StatusOK)
	expect(t, "failures", within.header.Get("X-Fails"), "0")
	for _, l := range s.faults(t) {
		expect(t, "level of a line", l.text("level"), "debug")
		expect(t, "side", l.text("side"), "client")
	}
}

// An upload that stalls is ended by the server's own timeout with an answer.
func TestStockSlowUpload(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		uploaded := make(chan error, 1)
		addr := origin(t, func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			uploaded <- err
		})
		s := serveConfig(t, "", "timeouts {\n read_body 1s\n }", directive+" "+addr)
		c, r := dialSite(t, s)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhello")
		got := readFinal(t, r)
		switch got.status {
		case 499, http.StatusRequestTimeout, http.StatusBadGateway, http.StatusGatewayTimeout:
		default:
			t.Errorf("status: got %d, want one that tells of the timeout", got.status)
		}
		if err := receive(t, "the end of the upload", uploaded); err == nil {
			t.Error("the origin took a part of the upload for the whole")
		}
		if directive == guarded {
			expect(t, "status", got.status, http.StatusRequestTimeout)
		}
	})
}

// A client that sends no more than a part and waits is not kept from the
// answer that the origin gives early.
func TestStockEarlyAnswer(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		addr := tcpOrigin(t, func(c net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, req.Body)
		})
		s := serve(t, directive+" "+addr)
		upload := strings.Repeat("x", 200_000)
		got := sendRaw(t, s, fmt.Sprintf("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(upload), upload))
		expect(t, "status", got.status, http.StatusForbidden)
		expect(t, "body", got.body, "no")
	})
}
