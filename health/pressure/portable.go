// SPDX-License-Identifier: Apache-2.0

// The sources that every system has: the Go runtime, and our own errors.

package pressure

import (
	"math"
	"runtime/metrics"
	"time"
)

func portableSources() []*source {
	return []*source{
		{name: "go_memory", feeds: []Resource{Memory}, open: openGoMemory},
		{name: "go_scheduler", feeds: []Resource{SchedLatency}, every: slowly, open: openScheduler},
		{name: "go_gc", feeds: []Resource{GC}, every: slowly, open: openCollector},
		{name: "errors", feeds: []Resource{FileErrors}, open: openErrors},
	}
}

// readMetrics makes ready for reading metrics of the Go runtime. They are kept
// in place, so that reading does not allocate.
func readMetrics(kind metrics.ValueKind, names ...string) ([]metrics.Sample, error) {
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	for i := range samples {
		if samples[i].Value.Kind() != kind {
			return nil, errUnsupported
		}
	}
	return samples, nil
}

// goMemory compares what Go cannot give back with GOMEMLIMIT. All that it has
// would be the wrong measure: with garbage, Go fills its limit on purpose.
type goMemory struct {
	host    *host
	samples []metrics.Sample
}

func openGoMemory(h *host) (reader, error) {
	samples, err := readMetrics(metrics.KindUint64,
		"/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/unused:bytes", "/memory/classes/heap/objects:bytes", "/gc/heap/live:bytes",
		"/gc/gomemlimit:bytes")
	return &goMemory{h, samples}, err
}

func (g *goMemory) read(v *values, _ time.Time) error {
	metrics.Read(g.samples)
	var f [7]float64
	for i := range f {
		f[i] = float64(g.samples[i].Value.Uint64())
	}
	total, released, free, unused, objects, live, limit := f[0], f[1], f[2], f[3], f[4], f[5], f[6]
	if live == 0 { // nothing has been collected yet
		live = objects
	}
	g.host.reclaimable = free + unused + max(0, objects-live)
	v[0] = 0
	if limit < math.MaxInt64 && limit > 0 {
		v[0] = max(0, total-released-g.host.reclaimable) / limit
	}
	return nil
}

func (g *goMemory) close() {}

// scheduler tells how long goroutines waited for a processor since it was last
// read.
type scheduler struct {
	samples []metrics.Sample
	before  []uint64
}

func openScheduler(*host) (reader, error) {
	samples, err := readMetrics(metrics.KindFloat64Histogram, "/sched/latencies:seconds")
	if err != nil {
		return nil, err
	}
	s := &scheduler{samples: samples, before: make([]uint64, len(samples[0].Value.Float64Histogram().Counts))}
	copy(s.before, samples[0].Value.Float64Histogram().Counts)
	return s, nil
}

func (s *scheduler) read(v *values, _ time.Time) error {
	metrics.Read(s.samples)
	h := s.samples[0].Value.Float64Histogram()
	v[0] = quantileSince(s.before, h.Counts, h.Buckets, .99)
	copy(s.before, h.Counts)
	return nil
}

func (s *scheduler) close() {}

// leastWaits is how many waits make a quantile: with fewer, one chance delay of
// the whole machine would be the 99 %.
const leastWaits = 100

// quantileSince is the quantile q of what was counted since before; 0 if that is
// too little to tell.
func quantileSince(before, now []uint64, bounds []float64, q float64) float64 {
	var n, sum uint64
	for i := range now {
		n += now[i] - before[i]
	}
	if n < leastWaits {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(n)))
	for i := range now {
		if sum += now[i] - before[i]; sum >= rank {
			return finite(bounds[i+1], bounds[i])
		}
	}
	return 0
}

// finite returns the first of two numbers that is one.
func finite(a, b float64) float64 {
	if math.IsInf(a, 0) {
		return b
	}
	return a
}

// collector tells the share of processor time that collecting garbage took. The
// runtime counts it at the end of each collection.
type collector struct {
	times, cycles []metrics.Sample
	gc, total     float64
	limited       uint64
	changed       time.Time
}

func openCollector(*host) (reader, error) {
	times, err := readMetrics(metrics.KindFloat64, "/cpu/classes/gc/total:cpu-seconds", "/cpu/classes/total:cpu-seconds")
	if err != nil {
		return nil, err
	}
	cycles, err := readMetrics(metrics.KindUint64, "/gc/limiter/last-enabled:gc-cycle")
	if err != nil {
		return nil, err
	}
	return &collector{
		times: times, cycles: cycles, limited: cycles[0].Value.Uint64(),
		gc: times[0].Value.Float64(), total: times[1].Value.Float64(),
	}, nil
}

// collectorHold is how long a share is believed while no collection ends: one
// of a large heap may take longer than a second.
const collectorHold = 3 * time.Second

func (c *collector) read(v *values, now time.Time) error {
	metrics.Read(c.times)
	metrics.Read(c.cycles)
	gc, total := c.times[0].Value.Float64(), c.times[1].Value.Float64()
	switch {
	case total > c.total:
		v[0] = clamp((gc - c.gc) / (total - c.total))
		c.gc, c.total, c.changed = gc, total, now
	case now.Sub(c.changed) > collectorHold:
		v[0] = 0
	}
	// Go's limiter means that half of the time is already spent collecting.
	if limited := c.cycles[0].Value.Uint64(); limited != c.limited {
		c.limited, v[0] = limited, 1
	}
	return nil
}

func (c *collector) close() {}

// errorCount counts what ObserveError saw since it was last read.
type errorCount struct {
	host   *host
	before uint64
}

func openErrors(h *host) (reader, error) { return &errorCount{h, h.fileErrors.Load()}, nil }

func (e *errorCount) read(v *values, _ time.Time) error {
	n := e.host.fileErrors.Load()
	v[0] = float64(n-e.before) / Interval.Seconds()
	e.before = n
	return nil
}

func (e *errorCount) close() {}
