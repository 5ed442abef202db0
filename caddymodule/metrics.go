// SPDX-License-Identifier: Apache-2.0

// Prometheus metrics of upstreams, through Caddy's registry.

package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// maxMetricUpstreams bounds the values of the label upstream. Configurations set
// them, but dynamic upstreams come and go; the ones beyond share otherUpstream.
const (
	maxMetricUpstreams = 1024
	otherUpstream      = "(other)"
)

const (
	// metricsForgotten is how long the counters of an upstream that no
	// configuration has are still told: an operator may take it out for a while.
	metricsForgotten = time.Hour
	// metricsRoom is how often room is looked for when there are too many.
	metricsRoom = time.Minute
)

// metrics go on over configurations: each new one has a registry of its own, in
// which they are registered anew.
type metrics struct {
	requests, retries *prometheus.CounterVec
	resumes, finished *prometheus.CounterVec
	aborted           *prometheus.CounterVec
	faults, ejections *prometheus.CounterVec
	latency           *prometheus.HistogramVec
	refused           prometheus.Counter
	eventsDropped     prometheus.Counter
	queued            *prometheus.CounterVec
	shed, wouldShed   *prometheus.CounterVec
	byUpstream        []interface {
		DeletePartialMatch(prometheus.Labels) int
	}

	// upstreams is replaced, never changed, under mu: there are few, and each
	// request looks one up.
	upstreams atomic.Pointer[map[string]*upstreamMetrics]
	mu        sync.Mutex
	tidied    atomic.Int64 // in Unix seconds
	// inUse tells the upstreams that configurations have.
	inUse func(now time.Time) map[string]bool
}

// upstreamMetrics saves looking labels up for each request.
type upstreamMetrics struct {
	name     string
	requests prometheus.Counter
	retries  prometheus.Counter
	resumes  prometheus.Counter
	finished prometheus.Counter
	latency  prometheus.Observer
	used     atomic.Int64 // in Unix seconds, give or take usedStep
}

// usedStep keeps a time that all requests share from being written by each.
const usedStep = 60

func (u *upstreamMetrics) touch(now time.Time) {
	if t := now.Unix(); t-u.used.Load() >= usedStep {
		u.used.Store(t)
	}
}

func newMetrics(inUse func(time.Time) map[string]bool) *metrics {
	const ns = "reset_guard"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: name, Help: help})
	}
	m := &metrics{
		requests:      counter("requests_total", "Attempts made at an upstream.", "upstream"),
		retries:       counter("retries_total", "Attempts at an upstream after which the request was sent again.", "upstream"),
		resumes:       counter("resumes_total", "Attempts at an upstream that broke off a response which can be resumed, or failed to go on with one.", "upstream"),
		finished:      counter("resumed_responses_total", "Responses that broke off and that this upstream finished.", "upstream"),
		aborted:       counter("aborted_total", "Responses that this upstream began, of which clients got only a part.", "upstream", "reason"),
		faults:        counter("faults_total", "Faults of attempts at an upstream, those of clients included.", "upstream", "cause", "phase"),
		ejections:     counter("ejections_total", "How often an upstream was ejected.", "upstream", "reason"),
		refused:       single("retries_refused_total", "Retries and resumes that the budget did not allow."),
		queued:        counter("queued_total", "Requests that waited for room at an upstream.", "zone"),
		shed:          counter("refused_total", "Requests that were refused because of overload.", "zone", "reason", "class"),
		wouldShed:     counter("would_refuse_total", "Requests that would have been refused, in the mode observe.", "zone", "reason", "class"),
		eventsDropped: single("events_dropped_total", "Events that were dropped because their handlers are too slow."),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Name: "latency_seconds", Help: "Time to the first byte of an upstream's answer to a request without a body.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"upstream"}),
		inUse: inUse,
	}
	m.byUpstream = append(m.byUpstream, m.requests, m.retries, m.resumes, m.finished, m.aborted, m.faults, m.ejections, m.latency)
	m.upstreams.Store(&map[string]*upstreamMetrics{})
	return m
}

// register makes the metrics part of a configuration's registry.
func (m *metrics) register(reg *prometheus.Registry, r *registry) error {
	for _, c := range []prometheus.Collector{
		m.requests, m.retries, m.resumes, m.finished, m.aborted, m.faults, m.ejections, m.latency, m.refused, m.eventsDropped,
		m.queued, m.shed, m.wouldShed, stateCollector{r}, rateCollector{r},
	} {
		var already prometheus.AlreadyRegisteredError
		if err := reg.Register(c); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// of finds the metrics of an upstream.
func (m *metrics) of(addr string) *upstreamMetrics {
	known := *m.upstreams.Load()
	if u := known[addr]; u != nil {
		return u
	}
	now := time.Now()
	if len(known) > maxMetricUpstreams && !m.mayTidy(now) {
		return known[otherUpstream]
	}
	return m.add(addr, now)
}

func (m *metrics) mayTidy(now time.Time) bool {
	return now.Unix()-m.tidied.Load() >= int64(metricsRoom/time.Second)
}

// add takes in an upstream that is not known yet, if there is room.
func (m *metrics) add(addr string, now time.Time) *upstreamMetrics {
	if len(*m.upstreams.Load()) >= maxMetricUpstreams && m.mayTidy(now) {
		m.tidy(now)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.upstreams.Load()
	if len(known) >= maxMetricUpstreams {
		addr = otherUpstream
	}
	if u := known[addr]; u != nil {
		return u
	}
	name := labelOf(addr)
	u := &upstreamMetrics{
		name:     name,
		requests: m.requests.WithLabelValues(name),
		retries:  m.retries.WithLabelValues(name),
		resumes:  m.resumes.WithLabelValues(name),
		finished: m.finished.WithLabelValues(name),
		latency:  m.latency.WithLabelValues(name),
	}
	u.used.Store(now.Unix())
	known = maps.Clone(known)
	known[addr] = u
	m.upstreams.Store(&known)
	return u
}

// tidy forgets upstreams that have left the configuration.
func (m *metrics) tidy(now time.Time) {
	m.tidied.Store(now.Unix())
	inUse := m.inUse(now) // takes a lock of its own
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := maps.Clone(*m.upstreams.Load())
	maps.DeleteFunc(kept, func(addr string, u *upstreamMetrics) bool {
		if inUse[addr] || addr == otherUpstream || now.Unix()-u.used.Load() < int64(metricsForgotten/time.Second) {
			return false
		}
		for _, vec := range m.byUpstream {
			vec.DeletePartialMatch(prometheus.Labels{"upstream": u.name})
		}
		return true
	})
	m.upstreams.Store(&kept)
}

// attempt counts an attempt that has ended.
func (m *metrics) attempt(addr string, f *health.Fault, ttfb time.Duration, now time.Time) {
	u := m.of(addr)
	u.touch(now)
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

// cut counts a response of which the client got only a part.
func (m *metrics) cut(addr string, reason failover.Reason) {
	m.aborted.WithLabelValues(m.of(addr).name, string(reason)).Inc()
}

func (m *metrics) transition(e health.Transition) {
	if e.To == health.Ejected && e.From != health.Ejected {
		m.ejections.WithLabelValues(m.of(e.Addr).name, string(e.Reason)).Inc()
	}
}

// stateCollector tells the states of all upstreams when it is asked.
type stateCollector struct{ registry *registry }

var (
	stateDesc = prometheus.NewDesc("reset_guard_upstream_state",
		"1 for the state that an upstream is in: healthy, ejected, probing or draining.", []string{"zone", "upstream", "state"}, nil)
	pressureDesc = prometheus.NewDesc("reset_guard_pressure",
		"How short this host is of something, from 0 to 1.", nil, nil)
	limitDesc = prometheus.NewDesc("reset_guard_limit",
		"How many requests an upstream can work on at the same time.", []string{"zone", "upstream"}, nil)
	limitEnforcedDesc = prometheus.NewDesc("reset_guard_limit_enforced",
		"1 while an upstream's limit keeps requests away.", []string{"zone", "upstream"}, nil)
	idleLimitDesc = prometheus.NewDesc("reset_guard_idle_limit_seconds",
		"How long a connection to an upstream may be idle and used again; only where that has been learned.", []string{"zone", "upstream"}, nil)
	poolFaultDesc = prometheus.NewDesc("reset_guard_pool_fault",
		"1 while all upstreams of a zone fail alike, or the only one left fails, so that no further one is ejected; once half of all attempts fail, retries are limited.", []string{"zone"}, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- stateDesc
	ch <- poolFaultDesc
	ch <- pressureDesc
	ch <- limitDesc
	ch <- limitEnforcedDesc
	ch <- idleLimitDesc
}

// upstreamState is one value of the gauge. Pools without a zone may go by the
// same name; what they agree on is counted.
type upstreamState struct{ zone, upstream, state string }

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(pressureDesc, prometheus.GaugeValue, c.registry.host.State().P)
	states, faulty := make(map[upstreamState]float64), make(map[string]float64)
	limits, enforced := make(map[upstreamState]float64), make(map[upstreamState]float64)
	idle := make(map[upstreamState]float64)
	now := time.Now()
	for _, p := range c.registry.inUse() {
		zone := labelOf(p.zone)
		if _, known := faulty[zone]; !known && len(faulty) >= maxMetricUpstreams {
			continue
		}
		faulty[zone] += float64(toInt(p.health.Faulty(now)))
		for _, u := range p.upstreams(now) {
			if k := (upstreamState{zone, labelOf(u.Addr), u.State.String()}); states[k] > 0 || len(states) < maxMetricUpstreams {
				states[k]++
			}
			k := upstreamState{zone: zone, upstream: labelOf(u.Addr)}
			if l, on := p.limitOf(u.Addr); l != nil && (limits[k] > 0 || len(limits) < maxMetricUpstreams) {
				limits[k] += float64(l.Limit())
				enforced[k] = max(enforced[k], float64(toInt(on)))
			}
			if least, known := idle[k]; u.LimitsIdle && (known || len(idle) < maxMetricUpstreams) {
				if limit := u.IdleLimit.Seconds(); !known || limit < least {
					idle[k] = limit
				}
			}
		}
	}
	for k, n := range states {
		send(ch, stateDesc, n, k.zone, k.upstream, k.state)
	}
	for k, n := range limits {
		send(ch, limitDesc, n, k.zone, k.upstream)
		send(ch, limitEnforcedDesc, enforced[k], k.zone, k.upstream)
	}
	for k, limit := range idle {
		send(ch, idleLimitDesc, limit, k.zone, k.upstream)
	}
	for zone, n := range faulty {
		send(ch, poolFaultDesc, n, zone)
	}
}

// send leaves out what prometheus does not accept: a scrape that panics ends the
// process.
func send(ch chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	if m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, labels...); err == nil {
		ch <- m
	}
}

// labelOf makes the value of a label. prometheus panics at what is not UTF-8, and
// a client may have chosen the name of an upstream.
func labelOf(s string) string { return strings.ToValidUTF8(clip(s), "\uFFFD") }
