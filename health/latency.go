// SPDX-License-Identifier: Apache-2.0

// What is known about an origin's speed: a decaying peak for choosing among
// origins, and a median for telling which of them is slow.

package health

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// latencyMemory is Finagle's and Linkerd's decay of the peak.
	latencyMemory = 10 * time.Second
	// peakFactor bounds a peak by the origin's own median.
	peakFactor = 10
	// unknownLatency is assumed of an origin of a pool in which nothing was
	// measured yet (Linkerd's default).
	unknownLatency = time.Second
	// leastLatency keeps an idle origin's faded peak from attracting everything.
	leastLatency = 100 * time.Microsecond

	// An answer is slow if its first byte takes four times as long as the
	// median origin's median, and longer than a person notices.
	slowFactor = 4
	slowFloor  = 250 * time.Millisecond
	// medianMin is how many answers make a median.
	medianMin = 20
)

// faded is a value that decays with time, for readers without a lock. Only one
// goroutine may set it at a time; a reader may pair a value with the next
// value's time, which is a matter of microseconds.
type faded struct {
	value atomic.Uint64 // bits of a float64
	at    atomic.Int64
}

// spread counts latencies by quarters of octaves, the latest weighing most.
type spread struct {
	counts [spreadSize]uint16
	total  uint32
	bucket int64
}

const (
	spreadLow  = 14 // 2^14 ns: 16 µs and less share the first quarter octave
	spreadHigh = 40 // 2^40 ns: 18 minutes and more share the last one
	spreadSize = (spreadHigh - spreadLow) * 4
)

func (s *spread) add(d time.Duration) {
	i := quarterOctave(d)
	if s.counts[i] == 1<<16-1 {
		s.halve()
	}
	s.counts[i]++
	s.total++
}

func quarterOctave(d time.Duration) int {
	n := uint64(max(d, 1<<spreadLow))
	log := bits.Len64(n) - 1
	quarter := int(n>>(log-2)) & 3
	return min((log-spreadLow)*4+quarter, spreadSize-1)
}

// halve forgets half of what was counted, the older half in effect.
func (s *spread) halve() {
	s.total = 0
	for i := range s.counts {
		s.counts[i] /= 2
		s.total += uint32(s.counts[i])
	}
}

// median is good to an eighth; 0 if fewer than these were counted.
func (s *spread) median(atLeast uint32) time.Duration {
	if s.total < max(1, atLeast) {
		return 0
	}
	seen := uint32(0)
	for i, n := range s.counts {
		if seen += uint32(n); 2*seen >= s.total {
			low := time.Duration(1) << (i/4 + spreadLow)
			return low + low/4*time.Duration(i%4) + low/8
		}
	}
	return 0
}

// advance halves the counts every ten seconds and gives the median once a
// second, with ok true.
func (s *spread) advance(t time.Duration) (median time.Duration, ok bool) {
	now := int64(t / bucketOf)
	if now <= s.bucket {
		return 0, false
	}
	for past := min(now/buckets-s.bucket/buckets, 16); past > 0 && s.total > 0; past-- {
		s.halve()
	}
	s.bucket = now
	return s.median(medianMin), true
}

// middle is the median of the medians of a pool's origins with one left out:
// below for an origin above it, above for an origin at or below it. Two numbers
// thus serve all origins.
type middle struct{ below, above atomic.Int64 }

// set takes the medians that are known, in any order, and sorts them.
func (m *middle) set(medians []time.Duration) {
	below, above := time.Duration(0), time.Duration(0)
	if n := len(medians); n >= 2 {
		slices.Sort(medians)
		below, above = medians[(n-2)/2], medians[(n-2)/2+1]
	}
	m.below.Store(int64(below))
	m.above.Store(int64(above))
}

// besides gives the peers' median for an origin with this median; 0 if unknown.
func (m *middle) besides(own time.Duration) time.Duration {
	below := time.Duration(m.below.Load())
	if own != 0 && own <= below {
		return time.Duration(m.above.Load())
	}
	return below
}

// isSlow compares the time to the first byte with the peers' median.
func isSlow(ttfb, peers time.Duration) bool {
	return peers > 0 && ttfb > max(slowFactor*peers, slowFloor)
}

// latencies are what a slow origin is told by: its peak, and its peers' median.
func (m *Member) latencies(p *Pool) (peak, peers time.Duration) {
	return time.Duration(math.Float64frombits(m.latency.value.Load())), p.middle.besides(time.Duration(m.median.Load()))
}
