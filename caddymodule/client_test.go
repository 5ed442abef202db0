// SPDX-License-Identifier: Apache-2.0

// What clients break off is the clients' fault.

package caddymodule_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// Hundreds of uploads broken off, with FIN and with RST, must fail nobody
// else's request: Caddy's passive health checks, which are on here, would count
// them against the origins.
func TestBrokenUploadsHarmNobody(t *testing.T) {
	a := startOrigin(t, faultinject.Config{Name: "a"})
	b := startOrigin(t, faultinject.Config{Name: "b"})
	site := serve(t, fmt.Sprintf("reset_guard %s {\n\tfail_duration 1m\n\tmax_fails 1\n}", join(a.Addr(), b.Addr())))

	var hostile sync.WaitGroup
	for worker := range 4 {
		hostile.Go(func() {
			for i := range 50 {
				breakOffUpload(t, site, (worker+i)%2 == 0)
			}
		})
	}
	client := newClient(t)
	for i := range 200 {
		res, err := client.Get(site.url("/bytes/100"))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("request %d of an honest client: got status %d, error %v", i, res.StatusCode, err)
		}
		res.Body.Close()
	}
	hostile.Wait()
	for _, l := range site.faults(t) {
		if l.text("cause") != "client_gone" || l.text("side") != "client" || l.text("level") != "debug" {
			t.Errorf("a client's doing was told as a fault: %v", l)
		}
	}
}

// breakOffUpload sends half of what it announces.
func breakOffUpload(t *testing.T, s *server, reset bool) {
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Error(err)
		return
	}
	fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: 200000\r\n\r\n%s", s.addr, strings.Repeat("x", 100000))
	if reset {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	conn.Close()
}

// A burst of one kind of fault is summed up.
func TestLogIsBounded(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.Refuse})
	site := serve(t, "reset_guard "+bad.Addr()+" {\n\tfailover {\n\t\tattempts 1\n\t}\n}")
	client := newClient(t)
	const requests = 60
	for range requests {
		res, err := client.Get(site.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if n := len(site.faults(t)); n != 10 {
		t.Errorf("got %d lines for %d faults of one kind, want 10", n, requests)
	}
	eventually(t, "the sum of what was left out", func() bool {
		for _, l := range site.lines(t) {
			if l.text("msg") == "upstream faults summed up" {
				return l["count"] == float64(requests-10) && l.text("cause") == "refused" && l.text("upstream") == bad.Addr()
			}
		}
		return false
	})
}
