// SPDX-License-Identifier: Apache-2.0

// Caddy's own health checks, passive and active, work as before.

package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// downAndUp holds of every way in which the first of two origins gets marked
// down: the second one answers although the first one would, until the failure
// is forgotten.
func downAndUp(t *testing.T, s *server, recover func()) {
	t.Helper()
	recover()
	expect(t, "while the first one is marked down", s.get(t, "/").body, "second")
	eventually(t, "the first one is chosen again", func() bool { return s.get(t, "/").body == "first" })
}

const rememberFailures = "lb_policy first\n fail_duration 500ms\n max_fails 1"

func TestStockRefusalMarksDown(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		first := startOrigin(t, faultinject.Config{Fault: faultinject.Refuse, Handler: named("first")})
		s := serve(t, fmt.Sprintf("%s %s %s {\n %s\n }", directive, first.Addr(), origin(t, named("second")), rememberFailures))
		got := s.get(t, "/")
		if directive == stock {
			expect(t, "status", got.status, http.StatusBadGateway)
		} else {
			expect(t, "body", got.body, "second")
		}
		downAndUp(t, s, func() {
			if err := first.SetFault(faultinject.None, 1); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func TestStockUnhealthyStatusMarksDown(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusNotFound} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				var sick atomic.Bool
				sick.Store(true)
				first := origin(t, func(w http.ResponseWriter, _ *http.Request) {
					if sick.Load() {
						w.WriteHeader(status)
					}
					_, _ = io.WriteString(w, "first")
				})
				s := serve(t, fmt.Sprintf("%s %s %s {\n %s\n unhealthy_status %d\n }", directive, first, origin(t, named("second")), rememberFailures, status))
				if got := s.get(t, "/"); directive == stock || status == http.StatusInternalServerError {
					expect(t, "status", got.status, status)
				}
				downAndUp(t, s, func() { sick.Store(false) })
			})
		})
	}
}

func TestStockUnhealthyLatencyMarksDown(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		var slow atomic.Bool
		slow.Store(true)
		first := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if slow.Load() {
				select { // longer than is healthy
				case <-time.After(60 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
			_, _ = io.WriteString(w, "first")
		})
		s := serve(t, fmt.Sprintf("%s %s %s {\n %s\n unhealthy_latency 50ms\n }", directive, first, origin(t, named("second")), rememberFailures))
		expect(t, "body", s.get(t, "/").body, "first")
		downAndUp(t, s, func() { slow.Store(false) })
	})
}

// The number of failures is the operator's, and each attempt counts once.
func TestStockMaxFails(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
		own := map[string]string{guarded: "failover off"}[directive] // as many attempts as requests
		s := serve(t, fmt.Sprintf("%s %s {\n fail_duration 1m\n max_fails 3\n %s\n }", directive, bad.Addr(), own))
		for range 3 {
			expect(t, "status", s.get(t, "/").status, http.StatusBadGateway)
		}
		expect(t, "status after three failures", s.get(t, "/").status, http.StatusServiceUnavailable)
		expect(t, "requests that reached the origin", bad.Requests(), 3)
	})
}

// busyOrigin holds every request to /busy until it is let go.
type busyOrigin struct {
	arrived chan bool
	letGo   chan bool
}

func (b busyOrigin) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/busy" {
		b.arrived <- true
		<-b.letGo
	}
	_, _ = io.WriteString(w, "done")
}

func newBusyOrigin() busyOrigin {
	return busyOrigin{arrived: make(chan bool, 1), letGo: make(chan bool)}
}

func TestStockFullOrigin(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		b := newBusyOrigin()
		s := serve(t, fmt.Sprintf("%s %s {\n unhealthy_request_count 1\n }", directive, origin(t, b.serve)))
		done := make(chan answer, 1)
		client, req := newClient(t), newRequest(t, http.MethodGet, s.url("/busy"), nil)
		go func() { done <- do(t, client, req) }()
		receive(t, "the first request arrives", b.arrived)
		expect(t, "status while the origin is full", s.get(t, "/").status, http.StatusServiceUnavailable)
		close(b.letGo)
		expect(t, "the first request", receive(t, "its answer", done).body, "done")
		eventually(t, "the origin is free", func() bool { return s.get(t, "/").status == http.StatusOK })
	})
}

// With lb_try_duration a request waits for a place.
func TestStockWaitForFullOrigin(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		b := newBusyOrigin()
		src := newSource(t, origin(t, b.serve))
		s := serve(t, fmt.Sprintf("%s {\n dynamic %s\n unhealthy_request_count 1\n lb_try_duration 10s\n lb_try_interval 5ms\n }", directive, src))
		client, done := newClient(t), make(chan answer, 2)
		for _, path := range []string{"/busy", "/"} {
			req := newRequest(t, http.MethodGet, s.url(path), nil)
			go func() { done <- do(t, client, req) }()
			if path == "/busy" {
				receive(t, "the first request arrives", b.arrived)
			}
		}
		eventually(t, "the second request was tried some times", func() bool { return src.asked.Load() >= 5 })
		expect(t, "answers while the origin was full", len(done), 0)
		close(b.letGo)
		for range 2 {
			expect(t, "body", receive(t, "an answer", done).body, "done")
		}
	})
}

// checkedOrigin answers health checks with a status that changes.
type checkedOrigin struct {
	health atomic.Int32
	checks atomic.Int32
	header atomic.Value
}

func (o *checkedOrigin) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		o.checks.Add(1)
		o.header.Store(r.Header.Get("X-Check"))
		w.WriteHeader(int(o.health.Load()))
		return
	}
	_, _ = io.WriteString(w, "first")
}

// Checks see the origin as it is: no second try, no other origin, no line in
// the guard's log.
func TestStockActiveChecks(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		o := new(checkedOrigin)
		o.health.Store(http.StatusServiceUnavailable)
		s := serve(t, fmt.Sprintf(`%s %s %s {
			lb_policy first
			health_uri /health
			health_interval 10ms
			health_headers {
				X-Check yes
			}
		}`, directive, origin(t, o.serve), origin(t, named("second"))))
		eventually(t, "the first one is marked down", func() bool { return s.get(t, "/").body == "second" })
		expect(t, "header of the checks", fmt.Sprint(o.header.Load()), "yes")
		o.health.Store(http.StatusOK)
		eventually(t, "the first one is up", func() bool { return s.get(t, "/").body == "first" })
		expect(t, "lines about faults", len(s.faults(t)), 0)
		for _, l := range s.lines(t) {
			if strings.HasPrefix(l.text("logger"), "http.log.error") {
				t.Errorf("an error was logged: %v", l)
			}
		}
	})
}

// An origin that refuses fails its checks without being told as a fault, and
// nobody is asked to wait for it.
func TestStockActiveChecksOfDeadOrigin(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf("%s %s {\n health_uri /health\n health_interval 10ms\n }", directive, deadAddr(t)))
		eventually(t, "two failed checks", func() bool {
			n := 0
			for _, l := range s.lines(t) {
				if strings.HasSuffix(l.text("logger"), "health_checker.active") && l.text("msg") == "HTTP request failed" {
					n++
				}
			}
			return n >= 2
		})
		expect(t, "status", s.get(t, "/").status, http.StatusServiceUnavailable)
		for _, l := range s.faults(t) {
			expect(t, "cause of a line", l.text("cause"), "no_upstream")
		}
	})
}

// Checks of an https origin are made over https, through the guard's transport.
func TestStockActiveChecksOverTLS(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		o := startOrigin(t, faultinject.Config{Protocol: faultinject.H2, Fault: faultinject.Status503})
		s := serve(t, fmt.Sprintf(`%s https://%s {
			health_uri /health
			health_interval 10ms
			transport http {
				tls_insecure_skip_verify
			}
		}`, directive, o.Addr()))
		eventually(t, "the origin is marked down", func() bool { return s.get(t, "/").status == http.StatusServiceUnavailable })
		if err := o.SetFault(faultinject.None, 1); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the origin is up", func() bool { return s.get(t, "/").status == http.StatusOK })
	})
}
