// SPDX-License-Identifier: Apache-2.0

// The bounds of metrics and what counting costs.

package caddymodule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/resetguard/caddy-resetguard/health"
)

// seriesOf counts the series of a collector.
func seriesOf(c prometheus.Collector) int {
	ch := make(chan prometheus.Metric)
	go func() {
		c.Collect(ch)
		close(ch)
	}()
	n := 0
	for range ch {
		n++
	}
	return n
}

func valueOf(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("got %d metrics, %v", len(families), err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func TestMetricsAreBounded(t *testing.T) {
	m := newMetrics(func(time.Time) map[string]bool { return nil })
	now := time.Now()
	fault := &health.Fault{Cause: health.Reset, Phase: health.PhaseWait}
	for i := range 3 * maxMetricUpstreams {
		m.attempt(fmt.Sprintf("10.0.%d.%d:80", i/256, i%256), fault, 0, now)
	}
	for _, vec := range []prometheus.Collector{m.requests, m.faults, m.retries, m.latency} {
		if n := seriesOf(vec); n != maxMetricUpstreams+1 {
			t.Errorf("got %d series, want %d and one for the others", n, maxMetricUpstreams)
		}
	}
	if n := valueOf(t, m.of("10.200.0.1:80").requests); n != 2*maxMetricUpstreams {
		t.Errorf("the others have %v attempts, want %d", n, 2*maxMetricUpstreams)
	}
}

func TestMetricsForgetWhatIsGone(t *testing.T) {
	m := newMetrics(func(time.Time) map[string]bool { return map[string]bool{"kept:80": true} })
	now := time.Now()
	fault := &health.Fault{Cause: health.Reset, Phase: health.PhaseWait}
	for _, addr := range []string{"kept:80", "gone:80"} {
		m.attempt(addr, fault, 0, now)
		m.transition(health.Transition{Addr: addr, To: health.Ejected, Reason: health.ReasonFailing})
	}
	m.attempt("late:80", nil, time.Millisecond, now.Add(metricsForgotten/2))
	m.tidy(now.Add(metricsForgotten - time.Minute))
	if n := seriesOf(m.requests); n != 3 {
		t.Errorf("within the hour: got %d upstreams, want 3", n)
	}
	m.tidy(now.Add(metricsForgotten + time.Minute))
	for vec, want := range map[prometheus.Collector]int{m.requests: 2, m.latency: 2, m.retries: 2, m.faults: 1, m.ejections: 1} {
		if n := seriesOf(vec); n != want {
			t.Errorf("after an hour: got %d series, want %d", n, want)
		}
	}
	m.attempt("gone:80", nil, 0, now)
	if n := valueOf(t, m.of("gone:80").requests); n != 1 {
		t.Errorf("after it came back: got %v attempts, want 1", n)
	}
}

func TestMetricsRegisteredTwice(t *testing.T) {
	r := newRegistry()
	defer r.host.Close()
	first, second := prometheus.NewPedanticRegistry(), prometheus.NewPedanticRegistry()
	for _, reg := range []*prometheus.Registry{first, second, first} {
		if err := r.metrics.register(reg, r); err != nil {
			t.Fatal(err)
		}
	}
	r.metrics.attempt("a:80", &health.Fault{Cause: health.Reset, Phase: health.PhaseDial}, 0, time.Now())
	for _, reg := range []*prometheus.Registry{first, second} {
		if families, err := reg.Gather(); err != nil || len(families) < 6 {
			t.Errorf("got %d metrics, %v", len(families), err)
		}
	}
}

func TestMetricsAllocateNothing(t *testing.T) {
	m := newMetrics(func(time.Time) map[string]bool { return nil })
	addr, now := fmt.Sprint("10.0.0.1:", 80), time.Now()
	fault := &health.Fault{Cause: health.Reset, Phase: health.PhaseWait}
	m.attempt(addr, fault, 0, now)
	if n := testing.AllocsPerRun(100, func() { m.attempt(addr, nil, time.Millisecond, now) }); n != 0 {
		t.Errorf("an answer: got %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { m.attempt(addr, fault, 0, now) }); n != 0 {
		t.Errorf("a fault: got %v allocations, want 0", n)
	}
}

func BenchmarkMetricsAttempt(b *testing.B) {
	m := newMetrics(func(time.Time) map[string]bool { return nil })
	addrs := make([]string, 100)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("10.0.0.%d:80", i)
		m.of(addrs[i])
	}
	fault := &health.Fault{Cause: health.Reset, Phase: health.PhaseWait}
	for name, f := range map[string]*health.Fault{"answer": nil, "fault": fault} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			now, i := time.Now(), 0
			for b.Loop() {
				i++
				m.attempt(addrs[i%len(addrs)], f, time.Millisecond, now)
			}
		})
	}
}

// A client may choose the name of an upstream, by a placeholder.
func TestMetricsOfNamesThatAreNotText(t *testing.T) {
	m := newMetrics(func(time.Time) map[string]bool { return nil })
	for _, name := range []string{"a\xffb:80", strings.Repeat("\xff", 2*maxLogText), strings.Repeat("ä", maxLogText)} {
		m.attempt(name, &health.Fault{Cause: health.Reset}, 0, time.Now())
		ch := make(chan prometheus.Metric, 2)
		if send(ch, poolFaultDesc, 1, labelOf(name)); len(ch) != 1 {
			t.Errorf("%q: got %d metrics, want 1", name, len(ch))
		}
		if send(ch, poolFaultDesc, 1, name); len(ch) > 2 {
			t.Errorf("%q: got %d metrics, want at most 2", name, len(ch))
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.faults)
	if _, err := reg.Gather(); err != nil {
		t.Errorf("gathering: %v", err)
	}
}
