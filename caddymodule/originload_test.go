// SPDX-License-Identifier: Apache-2.0

// What origins say of their load, through a real Caddy.

package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// loadTold is an upstream as the admin API tells its load.
type loadTold struct {
	Zone, Upstream string
	Limit          int
	Engaged        bool
	Utilization    *float64
	WaitsUntil     *time.Time `json:"waits_until"`
	Agent          *struct {
		Service, Running, Why string
		Weight                float64
		Max                   int
		Silent                bool
	}
}

func (s *adminServer) loadOf(tb testing.TB, upstream string) (l loadTold) {
	tb.Helper()
	got := s.ask(tb, http.MethodGet, "/reset_guard/pressure", "")
	var told struct{ Upstreams []loadTold }
	if err := json.Unmarshal([]byte(got.body), &told); err != nil {
		tb.Fatalf("got %s: %v", got.body, err)
	}
	for _, l := range told.Upstreams {
		if l.Upstream == upstream {
			return l
		}
	}
	tb.Fatalf("%s is not in %s", upstream, got.body)
	return l
}

// allFrom sends requests, all of which are to be answered by one origin.
//
// Right after a reload a new connection may still be accepted by the server that is
// ending, which closes it: that is Caddy's, and over in a moment.
func (s *adminServer) allFrom(tb testing.TB, name string) {
	tb.Helper()
	inARow := 0
	eventually(tb, "no connection ends with the old server", func() bool {
		res, err := newClient(tb).Get(s.url("/"))
		if inARow++; err != nil {
			inARow = 0
			return false
		}
		_ = res.Body.Close()
		return inARow >= 5
	})
	for range 20 {
		if a := s.get(tb, "/"); a.status != http.StatusOK || a.body != name {
			tb.Fatalf("got %d %q, want %q", a.status, a.body, name)
		}
	}
}

func TestLoadReports(t *testing.T) {
	leaveNothing(t)
	var report atomic.Value
	report.Store("")
	addr := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if v := report.Load().(string); v != "" {
			w.Header().Set("Endpoint-Load-Metrics", v)
		}
		_, _ = io.WriteString(w, "ok")
	})
	s := serveAdmin(t, "", "reset_guard "+addr)
	quiet(t, 0)
	expect(t, "status", s.get(t, "/").status, http.StatusOK)
	if l := s.loadOf(t, addr); l.Utilization != nil || l.Engaged || l.Limit == 0 || l.Agent != nil || l.WaitsUntil != nil {
		t.Errorf("without a report: got %+v", l)
	}
	report.Store("cpu_utilization=bogus")
	for range 3 {
		expect(t, "status with a void report", s.get(t, "/").status, http.StatusOK)
	}
	eventually(t, "the line", func() bool { return len(s.told(t, "upstream's load reports cannot be read")) == 1 })
	if l := s.loadOf(t, addr); l.Utilization != nil || l.Engaged {
		t.Errorf("with a void report: got %+v", l)
	}
	report.Store("application_utilization=0.95")
	a := s.get(t, "/")
	expect(t, "the header", a.header.Get("Endpoint-Load-Metrics"), "application_utilization=0.95")
	if l := s.loadOf(t, addr); l.Utilization == nil || *l.Utilization != .95 || !l.Engaged {
		t.Errorf("with a report: got %+v", l)
	}
	expect(t, "lines", len(s.told(t, "upstream's load reports cannot be read")), 1)
}

// A 503 with Retry-After spares an origin of which other things tell that it has
// too much to do, as long as there is another one.
func TestRetryAfterSparesBusyOrigin(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		status  int
		report  string
		alone   bool
		waits   bool
	}{
		"busy":          {"", http.StatusServiceUnavailable, "cpu_utilization=1", false, true},
		"busy, policy":  {"lb_policy round_robin", http.StatusServiceUnavailable, "cpu_utilization=1", false, true},
		"busy, alone":   {"", http.StatusServiceUnavailable, "cpu_utilization=1", true, true},
		"not busy":      {"", http.StatusServiceUnavailable, "cpu_utilization=0.5", false, false},
		"429":           {"", http.StatusTooManyRequests, "cpu_utilization=1", false, false},
		"bound clients": {"lb_policy first", http.StatusServiceUnavailable, "cpu_utilization=1", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			var status, hits atomic.Int64
			status.Store(http.StatusOK)
			busy := origin(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Endpoint-Load-Metrics", tc.report)
				code := int(status.Load())
				if code != http.StatusOK {
					w.Header().Set("Retry-After", "30")
					hits.Add(1)
				}
				w.WriteHeader(code)
				_, _ = io.WriteString(w, "busy")
			})
			other := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") })
			upstreams := join(busy, other)
			if tc.alone {
				upstreams = busy
			}
			s := serveAdmin(t, "", "reset_guard "+upstreams+" {\n"+tc.options+"\n}")
			quiet(t, 0)
			eventually(t, "a report", func() bool {
				s.get(t, "/")
				return s.loadOf(t, busy).Utilization != nil
			})
			status.Store(int64(tc.status))
			eventually(t, "the status", func() bool {
				s.get(t, "/")
				return hits.Load() > 0
			})
			status.Store(http.StatusOK)
			until := s.loadOf(t, busy).WaitsUntil
			if (until != nil) != tc.waits || until != nil && time.Until(*until) > 31*time.Second {
				t.Errorf("waits until %v, want it %v", until, tc.waits)
			}
			switch {
			case tc.alone:
				s.allFrom(t, "busy")
			case tc.waits:
				s.allFrom(t, "other")
			}
		})
	}
}

// What tells of too much to do, through a real Caddy.
func TestSignsOfOverload(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg     faultinject.Config
		scheme  string
		options string
	}{
		"enhance_your_calm": {faultinject.Config{Protocol: faultinject.H2C, Fault: faultinject.StreamCalm}, "h2c://", ""},
		"goaway":            {faultinject.Config{Protocol: faultinject.H2C, Fault: faultinject.GoAwayCalm}, "h2c://", ""},
		"503":               {faultinject.Config{Fault: faultinject.Status, Status: 503}, "", ""},
		"timeout":           {faultinject.Config{Fault: faultinject.StallBeforeHeaders}, "", "transport http {\nresponse_header_timeout 20ms\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := startOrigin(t, tc.cfg)
			s := serveAdmin(t, "", "reset_guard "+tc.scheme+bad.Addr()+" {\n"+tc.options+"\n}")
			quiet(t, 0)
			for i := 0; !s.engaged(t, bad.Addr()); i++ {
				if i == 40 {
					t.Fatal("not engaged after 40 requests")
				}
				s.get(t, "/")
			}
			allGivenBack(t)
		})
	}
}

// engaged tells so of an upstream that may not have had any request.
func (s *adminServer) engaged(tb testing.TB, upstream string) bool {
	tb.Helper()
	return s.loadOf(tb, upstream).Engaged
}

// talker is an agent that says what it is told to.
type talker struct {
	line  atomic.Value
	asked atomic.Int64
}

// startTalkers starts agents at one port of each host.
func startTalkers(t *testing.T, hosts ...string) (talkers []*talker, port string) {
	t.Helper()
	port = "0"
	for _, host := range hosts {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Skipf("this host has no second address of loopback: %v", err)
		}
		port = strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
		a := new(talker)
		a.line.Store("up ready")
		done := make(chan struct{})
		t.Cleanup(func() { _ = ln.Close(); <-done })
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				a.asked.Add(1)
				_, _ = io.WriteString(c, a.line.Load().(string)+"\n")
				_ = c.Close()
			}
		}()
		talkers = append(talkers, a)
	}
	return talkers, port
}

func (a *talker) say(line string) { a.line.Store(line) }

// originAt is an origin that answers its name.
func originAt(t *testing.T, host, name string) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("this host has no second address of loopback: %v", err)
	}
	_ = srv.Listener.Close()
	srv.Listener = ln
	return startHTTP(t, srv)
}

const hostA, hostB = "127.0.0.1", "127.0.0.2"

func TestAgentTakesUpstreamOut(t *testing.T) {
	for name, policy := range map[string]string{"choice": "", "policy": "lb_policy round_robin", "sticky": "lb_policy first"} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			agents, port := startTalkers(t, hostA, hostB)
			a, b := originAt(t, hostA, "a"), originAt(t, hostB, "b")
			site := fmt.Sprintf("reset_guard %s {\n%s\noverload {\nagent %s 500ms\n}\n}", join(a, b), policy, port)
			agents[0].say("maint down#backup of the disk")
			s := serveAdmin(t, "", site)
			quiet(t, 0)
			eventually(t, "the agent's word", func() bool { l := s.loadOf(t, a); return l.Agent != nil && l.Agent.Service == "maint" })
			if l := s.loadOf(t, a); l.Agent.Running != "down" || l.Agent.Why != "backup of the disk" || l.Agent.Weight != 1 || l.Agent.Silent {
				t.Errorf("got %+v", *l.Agent)
			}
			s.allFrom(t, "b")
			eventually(t, "the line", func() bool { return len(s.told(t, "upstream's agent takes it out")) == 1 })
			expect(t, "why", s.told(t, "upstream's agent takes it out")[0].text("why"), "backup of the disk")

			s.reload(t, site)
			quiet(t, 0)
			s.allFrom(t, "b") // nothing is forgotten
			agents[1].say("stopped")
			eventually(t, "the other agent's word", func() bool { l := s.loadOf(t, b); return l.Agent != nil && l.Agent.Running == "stopped" })
			expect(t, "status with none left", s.get(t, "/").status, http.StatusOK)
			agents[0].say("ready up")
			eventually(t, "a again", func() bool { return s.loadOf(t, a).Agent.Service == "ready" })
			s.allFrom(t, "a")
			expect(t, "lines of a", len(s.told(t, "upstream's agent takes it out")), 2) // and b's; the next is due in a minute
		})
	}
}

func TestAgentSetsCeiling(t *testing.T) {
	leaveNothing(t)
	b := newBlocker(t)
	agents, port := startTalkers(t, hostA)
	agents[0].say("up maxconn:3")
	s := serveAdmin(t, "", fmt.Sprintf("reset_guard %s {\noverload {\nqueue off\nagent %s 500ms\n}\n}", b.addr, port))
	quiet(t, 0)
	eventually(t, "the ceiling", func() bool { return s.loadOf(t, b.addr).Limit == 3 })
	refused, wait := b.fill(t, s.server, "/hold")
	refusedWell(t, refused, 1, 3)
	if n := b.held.Load(); n > 3 {
		t.Errorf("the origin holds %d requests, want 3 at the most", n)
	}
	b.open()
	wait()
	allGivenBack(t)
	agents[0].say("up maxconn:0")
	eventually(t, "the end of the ceiling", func() bool { return s.loadOf(t, b.addr).Limit > 3 })
}

// An agent that cannot be reached changes nothing; it is told once, and once when
// it is back.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	leaveNothing(t)
	agents, port := startTalkers(t, hostA)
	a := originAt(t, hostA, "a")
	s := serveAdmin(t, "", fmt.Sprintf("reset_guard %s {\noverload {\nagent %s 500ms\n}\n}", a, port))
	quiet(t, 0)
	agents[0].say("gibberish")
	eventually(t, "silence", func() bool { l := s.loadOf(t, a); return l.Agent != nil && l.Agent.Silent })
	eventually(t, "the line", func() bool { return len(s.told(t, "upstream's agent does not answer")) == 1 })
	s.allFrom(t, "a")
	agents[0].say("up")
	eventually(t, "an answer", func() bool { return !s.loadOf(t, a).Agent.Silent })
}

// An agent that never answers holds up no reload, and is left with its
// configuration.
func TestAgentIsLeftWithItsConfiguration(t *testing.T) {
	leaveNothing(t)
	ln, err := net.Listen("tcp", net.JoinHostPort(hostA, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := originAt(t, hostA, "a")
	s := serveAdmin(t, "", fmt.Sprintf("reset_guard %s {\noverload {\nagent %d\n}\n}", a, ln.Addr().(*net.TCPAddr).Port))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	s.reload(t, "reset_guard "+a)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the reload took %v", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to the agent is still there")
	}
	s.allFrom(t, "a")
}
