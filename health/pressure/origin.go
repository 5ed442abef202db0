// SPDX-License-Identifier: Apache-2.0

// One origin's pressure: what it reports, and when it wants to be left alone.

package pressure

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// ReportTau is the time in which a new load makes up 63 % of what is believed.
	ReportTau = 5 * time.Second
	// ReportExpiry is how long a report is believed.
	ReportExpiry = 30 * time.Second
	// MaxBackoff is how long an origin can ask to be left alone.
	MaxBackoff = time.Minute
)

// DefaultUtilization is from where on an origin's utilization is pressure.
var DefaultUtilization = Threshold{.8, 1}

// Origin is what an origin said about itself. Its methods may be called from
// several goroutines; reading does not lock. It holds no policy.
type Origin struct {
	begin time.Time

	mu          sync.Mutex    // for writing
	utilization atomic.Uint64 // float64 bits
	reported    atomic.Int64  // since begin; 0: never
	until       atomic.Int64  // since begin: the end of the backoff
}

// NewOrigin makes an origin that has said nothing.
func NewOrigin(now time.Time) *Origin { return &Origin{begin: now} }

// at counts time from the origin's beginning, by the monotonic clock. It is
// never 0.
func (o *Origin) at(now time.Time) time.Duration { return max(1, now.Sub(o.begin)) }

// Report takes in a load report.
func (o *Origin) Report(r Report, now time.Time) {
	u := min(r.Utilization(), 10) // so that one absurd figure is not remembered for long
	if !(u >= 0) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t, last := o.at(now), time.Duration(o.reported.Load())
	if last > 0 && t-last < ReportExpiry {
		old := math.Float64frombits(o.utilization.Load())
		u = old + (u-old)*(1-math.Exp(-max(0, t-last).Seconds()/ReportTau.Seconds()))
	}
	o.utilization.Store(math.Float64bits(u))
	o.reported.Store(int64(max(t, last)))
}

// Utilization is the smoothed load; ok is false if there was no report lately.
func (o *Origin) Utilization(now time.Time) (u float64, ok bool) {
	last := time.Duration(o.reported.Load())
	if last == 0 || o.at(now)-last >= ReportExpiry {
		return 0, false
	}
	return math.Float64frombits(o.utilization.Load()), true
}

// Pressure is how much too much the origin has to do, from 0 to 1.
func (o *Origin) Pressure(now time.Time) float64 {
	u, _ := o.Utilization(now)
	return DefaultUtilization.pressure(u)
}

// Backoff notes that the origin wants no requests for a time, of which it can
// have a minute. The longest wish counts.
func (o *Origin) Backoff(d time.Duration, now time.Time) {
	until := int64(o.at(now) + min(d, MaxBackoff))
	for {
		old := o.until.Load()
		if until <= old || o.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// Waits is how much longer the origin wants to be left alone; 0 if it does not.
func (o *Origin) Waits(now time.Time) time.Duration {
	return max(0, time.Duration(o.until.Load())-o.at(now))
}
