// SPDX-License-Identifier: Apache-2.0

// Metrics of limits: how many requests were decided how, by zone, class, budget
// and decision. Nothing in a label comes from a client.

package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"
)

// rateCollector tells the counters of the zones in use when it is asked.
type rateCollector struct{ registry *registry }

var decisionsDesc = prometheus.NewDesc("reset_guard_rate_limit_decisions_total",
	"Requests that limits have decided about.", []string{"zone", "class", "budget", "decision"}, nil)

// Describe implements prometheus.Collector.
func (rateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- decisionsDesc }

// Collect implements prometheus.Collector. Zones may go by the same name; what
// they have counted is added up.
func (c rateCollector) Collect(ch chan<- prometheus.Metric) {
	type labels struct{ zone, class, budget, decision string }
	sums, zones := make(map[labels]uint64), make(map[string]bool)
	for _, z := range c.registry.rateZonesInUse() {
		name := labelOf(z.name)
		if !zones[name] && len(zones) >= maxMetricUpstreams {
			continue
		}
		zones[name] = true
		for _, n := range z.rates.Counts() {
			sums[labels{name, n.Class.String(), n.Level.String(), n.Outcome.String()}] += n.N
		}
	}
	for l, n := range sums {
		if m, err := prometheus.NewConstMetric(decisionsDesc, prometheus.CounterValue, float64(n), l.zone, l.class, l.budget, l.decision); err == nil {
			ch <- m
		}
	}
}
