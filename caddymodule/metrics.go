// SPDX-License-Identifier: Apache-2.0

// Prometheus metrics of upstreams, through Caddy's registry.

package caddymodule

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/resetguard/caddy-resetguard/health"
)

// maxMetricUpstreams bounds the values of the label upstream. Configurations set
// them, but dynamic upstreams come and go; the ones beyond share otherUpstream.
const (
	maxMetricUpstreams = 1024
	otherUpstream      = "(other)"
)

// metrics go on over configurations: each new one has a registry of its own, in
// which they are registered anew.
type metrics struct {
	requests, retries *prometheus.CounterVec
	faults, ejections *prometheus.CounterVec
	latency           *prometheus.HistogramVec
	refused           prometheus.Counter

	upstreams sync.Map // of address to *upstreamMetrics
	count     atomic.Int64
}

// upstreamMetrics saves looking labels up for each request.
type upstreamMetrics struct {
	name     string
	requests prometheus.Counter
	retries  prometheus.Counter
	latency  prometheus.Observer
}

func newMetrics() *metrics {
	const ns = "reset_guard"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: name, Help: help}, labels)
	}
	return &metrics{
		requests:  counter("requests_total", "Attempts made at an upstream.", "upstream"),
		retries:   counter("retries_total", "Attempts at an upstream after which the request was sent again.", "upstream"),
		faults:    counter("faults_total", "Faults of attempts at an upstream, those of clients included.", "upstream", "cause", "phase"),
		ejections: counter("ejections_total", "How often an upstream was ejected.", "upstream", "reason"),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Name: "retries_refused_total", Help: "Retries that the budget did not allow.",
		}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Name: "latency_seconds", Help: "Time to the first byte of an upstream's answer to a request without a body.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"upstream"}),
	}
}

// register makes the metrics part of a configuration's registry.
func (m *metrics) register(reg *prometheus.Registry, r *registry) error {
	for _, c := range []prometheus.Collector{m.requests, m.retries, m.faults, m.ejections, m.latency, m.refused, stateCollector{r}} {
		var already prometheus.AlreadyRegisteredError
		if err := reg.Register(c); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// of finds the metrics of an upstream.
func (m *metrics) of(addr string) *upstreamMetrics {
	if u, ok := m.upstreams.Load(addr); ok {
		return u.(*upstreamMetrics)
	}
	name := addr
	if m.count.Load() >= maxMetricUpstreams {
		name = otherUpstream
		if u, ok := m.upstreams.Load(name); ok {
			return u.(*upstreamMetrics)
		}
	}
	u, known := m.upstreams.LoadOrStore(name, &upstreamMetrics{
		name:     clip(name),
		requests: m.requests.WithLabelValues(clip(name)),
		retries:  m.retries.WithLabelValues(clip(name)),
		latency:  m.latency.WithLabelValues(clip(name)),
	})
	if !known {
		m.count.Add(1)
	}
	return u.(*upstreamMetrics)
}

// attempt counts an attempt that has ended.
func (m *metrics) attempt(addr string, f *health.Fault, ttfb time.Duration) {
	u := m.of(addr)
	u.requests.Inc()
	if ttfb > 0 && f == nil {
		u.latency.Observe(ttfb.Seconds())
	}
	m.fault(addr, f)
}

func (m *metrics) fault(addr string, f *health.Fault) {
	if f != nil {
		m.faults.WithLabelValues(m.of(addr).name, string(f.Cause), string(f.Phase)).Inc()
	}
}

func (m *metrics) transition(e health.Transition) {
	if e.To == health.Ejected && e.From != health.Ejected {
		m.ejections.WithLabelValues(m.of(e.Addr).name, string(e.Reason)).Inc()
	}
}

// stateCollector tells the states of all upstreams when it is asked.
type stateCollector struct{ registry *registry }

var stateDesc = prometheus.NewDesc("reset_guard_upstream_state",
	"1 for the state that an upstream is in: healthy, ejected, probing or draining.", []string{"zone", "upstream", "state"}, nil)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- stateDesc }

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	type key struct{ zone, upstream string }
	told := make(map[key]bool)
	now := time.Now()
	for _, s := range c.registry.all() {
		for _, st := range s.view.Standing(now) {
			k := key{clip(s.label()), clip(st.Addr)}
			if told[k] || len(told) >= maxMetricUpstreams {
				continue
			}
			told[k] = true
			ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, 1, k.zone, k.upstream, st.State.String())
		}
	}
}
