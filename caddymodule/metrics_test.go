// SPDX-License-Identifier: Apache-2.0

// Metrics, as Prometheus scrapes them from Caddy.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// metrics scrapes the admin endpoint and returns our samples by name and labels,
// as they are written.
func (s *adminServer) metrics(tb testing.TB) map[string]float64 {
	tb.Helper()
	got := s.ask(tb, http.MethodGet, "/metrics", "")
	if got.status != http.StatusOK {
		tb.Fatalf("got %d: %s", got.status, got.body)
	}
	samples := make(map[string]float64)
	for line := range strings.Lines(got.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.Contains(line, "{") {
			name += "}"
		} else {
			name, value, _ = strings.Cut(strings.TrimSpace(line), " ")
		}
		if !strings.HasPrefix(name, "reset_guard_") {
			continue
		}
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			tb.Fatalf("%s: %v", line, err)
		}
		samples[name] = x
	}
	return samples
}

// Of several labels those count that have all of the parts.
func sumOf(samples map[string]float64, name string, parts ...string) (sum float64) {
	for k, x := range samples {
		lacks := func(part string) bool { return !strings.Contains(k, part) }
		if strings.HasPrefix(k, name+"{") && !slices.ContainsFunc(parts, lacks) {
			sum += x
		}
	}
	return sum
}

func TestMetricsGoOnOverReloads(t *testing.T) {
	leaveNothing(t)
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest})
	good := addresses(t, 2)
	site := "reset_guard " + join(bad.Addr(), good[0], good[1]) + " {\nlb_policy round_robin\n}"
	s := serveAdmin(t, "", site)
	count := func(requests int) map[string]float64 {
		t.Helper()
		for range requests {
			s.get(t, "/")
		}
		return s.metrics(t)
	}
	m := count(6)
	fault := fmt.Sprintf("reset_guard_faults_total{cause=\"reset\",phase=\"wait\",upstream=%q}", bad.Addr())
	retries := fmt.Sprintf("reset_guard_retries_total{upstream=%q}", bad.Addr())
	expect(t, "faults", m[fault], 2)
	expect(t, "retries", m[retries], 2)
	expect(t, "attempts", sumOf(m, "reset_guard_requests_total"), 8)
	expect(t, "latencies", sumOf(m, "reset_guard_latency_seconds_count"), 6)
	expect(t, "states", sumOf(m, "reset_guard_upstream_state"), 3)
	if _, there := m["reset_guard_retries_refused_total"]; !there {
		t.Error("got no reset_guard_retries_refused_total")
	}

	s.reload(t, site)
	again := s.metrics(t)
	for _, name := range []string{fault, retries, "reset_guard_retries_refused_total"} {
		expect(t, name+" after a reload", again[name], m[name])
	}
	m = count(3)
	expect(t, "attempts after a reload", sumOf(m, "reset_guard_requests_total"), 12)
	expect(t, "faults after a reload", m[fault], 3)

	eventually(t, "the ejection", func() bool {
		s.get(t, "/")
		return s.metrics(t)[fmt.Sprintf("reset_guard_ejections_total{reason=\"failing\",upstream=%q}", bad.Addr())] == 1
	})
	state := func(upstream, state string) string {
		return fmt.Sprintf("reset_guard_upstream_state{state=%q,upstream=%q,zone=%q}", state, upstream, bad.Addr())
	}
	m = s.metrics(t)
	expect(t, "ejected", m[state(bad.Addr(), "ejected")], 1)
	expect(t, "healthy", m[state(good[0], "healthy")], 1)

	s.reload(t, "reset_guard "+join(good...))
	m = s.metrics(t)
	for name := range m {
		if strings.HasPrefix(name, "reset_guard_upstream_state") && strings.Contains(name, bad.Addr()) {
			t.Errorf("%s is of an upstream that left the configuration", name)
		}
	}
	expect(t, "states", sumOf(m, "reset_guard_upstream_state"), 2)
	expect(t, "pools", sumOf(m, "reset_guard_pool_fault"), 0)
	expect(t, "its counters", m[retries] >= 3, true) // an operator may put it back
}

// A site's own /metrics and several sites with the same upstreams do not
// disagree about who registers what.
func TestMetricsOfSeveralSites(t *testing.T) {
	addrs := addresses(t, 2)
	s := serveAdmin(t, "metrics", fmt.Sprintf(
		"handle /metrics {\nmetrics\n}\nhandle /a {\nreset_guard %s\n}\nhandle /b {\nreset_guard %s\n}\nhandle /c {\nreset_guard %s\n}",
		join(addrs...), join(addrs[1], addrs[0]), addrs[0]))
	for _, path := range []string{"/a", "/b", "/c"} {
		expect(t, path, s.get(t, path).status, http.StatusOK)
	}
	m := s.metrics(t)
	expect(t, "attempts", sumOf(m, "reset_guard_requests_total"), 3)
	// Two pools have the first upstream, and both go by its name.
	expect(t, "states", sumOf(m, "reset_guard_upstream_state"), 3)
	if own := s.get(t, "/metrics"); own.status != http.StatusOK || !strings.Contains(own.body, "reset_guard_requests_total") {
		t.Errorf("the directive metrics: got %d, want our metrics", own.status)
	}
}

// What net/http mends by itself is counted as a fault all the same.
func TestMetricsCountHiddenFaults(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseReused})
	s := serveAdmin(t, "", "reset_guard "+bad.Addr())
	const requests = 6
	for range requests {
		expect(t, "status", s.get(t, "/").status, http.StatusOK)
	}
	m := s.metrics(t)
	attempts, faults := sumOf(m, "reset_guard_requests_total"), sumOf(m, "reset_guard_faults_total")
	t.Logf("%v attempts, %v faults", attempts, faults)
	if faults == 0 || attempts < requests {
		t.Errorf("got %v attempts and %v faults of %d requests to an origin that closes each reused connection", attempts, faults, requests)
	}
}
