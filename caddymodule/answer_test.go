// SPDX-License-Identifier: Apache-2.0

// What a client gets when no origin can answer.

package caddymodule_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestAnswerForms(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.Refuse})
	site := serve(t, "reset_guard "+bad.Addr()+" {\n\tproxy_status_name edge-1\n\tfailover {\n\t\tattempts 2\n\t}\n}")
	for _, tc := range []struct {
		name, method, accept, contentType, contains string
	}{
		{"browser", http.MethodGet, "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "</html>"},
		{"api", http.MethodGet, "application/json", "application/problem+json", `"status":502`},
		{"curl", http.MethodGet, "*/*", "text/plain; charset=utf-8", "origin"},
		{"head", http.MethodHead, "text/html", "text/html; charset=utf-8", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, site.url("/x"), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", tc.accept)
			res, err := newClient(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatalf("reading the answer: %v", err)
			}
			if res.StatusCode != http.StatusBadGateway {
				t.Errorf("status: got %d, want 502", res.StatusCode)
			}
			for field, want := range map[string]string{
				"Content-Type":  tc.contentType,
				"Proxy-Status":  "edge-1;error=connection_refused",
				"Cache-Control": "no-store",
			} {
				if got := res.Header.Get(field); got != want {
					t.Errorf("%s: got %q, want %q", field, got, want)
				}
			}
			if !strings.Contains(string(body), tc.contains) {
				t.Errorf("body: got %q, want it to contain %q", body, tc.contains)
			}
			if strings.Contains(string(body), bad.Addr()) {
				t.Errorf("body tells the origin's address: %q", body)
			}
		})
	}
}

func TestAnswerIsFoundInLog(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
	site := serve(t, "reset_guard "+bad.Addr())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, site.url("/order?id=7"), strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	res, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var problem struct {
		Instance string `json:"instance"`
	}
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
		t.Fatalf("the answer is not JSON: %v", err)
	}
	lines := site.faults(t)
	if len(lines) != 1 {
		t.Fatalf("got %d lines, want 1: %v", len(lines), lines)
	}
	for key, want := range map[string]string{
		"action": "gave_up", "reason": "not_idempotent", "outcome": "error", "cause": "closed", "phase": "wait",
		"side": "upstream", "uri": "/order?id=7", "method": "POST", "level": "error",
	} {
		if got := lines[0].text(key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	if id := lines[0].text("request_id"); id == "" || !strings.HasSuffix(problem.Instance, id) {
		t.Errorf("the answer's instance %q does not name the log's request_id %q", problem.Instance, id)
	}
}

func TestAnswerWithoutUpstreams(t *testing.T) {
	for name, config := range map[string]string{
		"none given": "reset_guard {\n\tdynamic a {\n\t\tname does-not-exist.invalid\n\t\tport 80\n\t\tresolvers 127.0.0.1:1\n\t}\n}",
		"all down":   "reset_guard 127.0.0.1:1 {\n\tfail_duration 1m\n\tfailover {\n\t\tattempts 1\n\t}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			site := serve(t, config)
			client := newClient(t)
			if _, err := client.Get(site.url("/")); err != nil { // marks the origin down
				t.Fatal(err)
			}
			res, err := client.Get(site.url("/"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("status: got %d, want 503", res.StatusCode)
			}
			if res.Header.Get("Retry-After") == "" {
				t.Error("a 503 without Retry-After")
			}
			lines := site.faults(t)
			if len(lines) == 0 || lines[len(lines)-1].text("cause") != "no_upstream" {
				t.Errorf("the log does not tell that there was no upstream: %v", lines)
			}
		})
	}
}

// A client that sends its whole upload before it reads must get the answer, and
// not the reset that closing a connection with unread data causes.
func TestAnswerReachesBusyUploader(t *testing.T) {
	const size = 16 << 20
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterHeader})
	site := serve(t, "reset_guard "+bad.Addr())
	conn := dialRaw(t, site)
	fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", site.addr, size)
	if n, err := io.CopyN(conn, zeroes{}, size); err != nil {
		t.Fatalf("the upload broke off after %d bytes: %v", n, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d, error %v, want a complete 502", res.StatusCode, err)
	}
}

// A client that asks before it uploads is told no at once: reading on would wait
// for a body that never comes.
func TestAnswerDoesNotAwaitBodyAfterExpect(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.Refuse})
	site := serve(t, "reset_guard "+bad.Addr()+" {\n\tfailover {\n\t\tattempts 1\n\t}\n}")
	conn := dialRaw(t, site)
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", site.addr)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	status, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(status, "HTTP/1.1 502 ") {
		t.Errorf("got %q, error %v, want a 502 without 100 Continue before it", status, err)
	}
}

func dialRaw(t *testing.T, s *server) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(t.Context(), func() { conn.Close() })
	t.Cleanup(func() { stop(); conn.Close() })
	return conn
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
