// SPDX-License-Identifier: Apache-2.0

// One origin of a pool: what its outcomes add up to.

package health

import (
	"cmp"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how an attempt at an origin ended.
type Outcome struct {
	// Fault is what went wrong; nil for an answer. A fault of weight 0 is
	// nobody's outcome: it changes nothing.
	Fault *Fault
	// Conn identifies the connection that the attempt used, so that its loss
	// counts once however many requests it carried; 0 if unknown.
	Conn uint64
	// TTFB is how long the first byte of the answer took. 0 leaves the origin's
	// latency alone: right for what is not expected to answer at once.
	TTFB time.Duration
	// Denied tells that the answer is an error's (4xx, 5xx), which takes less time
	// than what was asked for: it does not make the origin look faster.
	Denied bool
	// Trial tells that Pick or Claim gave the request out as a trial.
	Trial bool
	// Client identifies whose request it was, where clients are bound to origins or
	// the fault may be provoked; 0 otherwise. An origin's own error pages and what is
	// provoked count only so often for a client: it may be the client that asks for
	// them.
	Client uint64

	paceless bool // nobody is to be judged by TTFB
}

// Member is an origin in a Pool. It outlives configurations and holds counters,
// never policy. Methods may be called from several goroutines.
type Member struct {
	addr  string
	stray bool // it belongs to no View and never will

	// For choosing, read without a lock.
	state    atomic.Uint32
	since    atomic.Int64 // when the state began, or the origin was added
	until    atomic.Int64 // end of the ejection, from the pool's beginning; forever: until restored
	trial    atomic.Int64 // when the trial under way began; 0: none is
	returned atomic.Int64 // when the origin last returned; 0: never was out
	seen     atomic.Int64 // last outcome, or when it was added
	inflight atomic.Int64
	broken   atomic.Bool // its last counted outcome was a fault that cannot pass by itself
	manual   atomic.Bool // the state is an operator's
	latency  faded       // decaying peak, in nanoseconds
	failing  faded       // EWMA of failures
	median   atomic.Int64

	keepAlive KeepAlive

	// Guarded by the pool's lock.
	refs      int           // Views that have the origin
	unmanaged bool          // there was no room for it: it is used, and never ejected
	left      time.Duration // when it was Healthy last

	mu        sync.Mutex
	faults    sequential
	slow      sequential
	suspicion suspicion
	ttfb      spread
	lost      [8]uint64 // connections that were counted as lost
	lostAt    int
	reach     Phase // the furthest that a failure since the change came

	// complaints are the latest error pages, by the clients that got them.
	complaints  [16]complaint
	complaintAt int

	outFor   Reason        // why it was ejected last
	level    int           // ejections in a row
	passed   int           // trials in a row
	probes   int           // successful ones in a row
	probedAt time.Duration // the last of these
	kept     bool          // it was reported that max_share keeps it in
	keptAt   time.Duration
}

// forever is the end of an ejection that only an operator ends.
const forever = math.MaxInt64

// failingWeight is what one outcome weighs in the EWMA of failures: it looks back
// some twenty outcomes.
const failingWeight = 0.05

// negligible is an average that changes a choice by less than a hundredth.
const negligible = 1e-4

// isOut tells that the origin takes no ordinary requests by the pool's decision.
func (m *Member) isOut() bool {
	return !m.manual.Load() && (m.State() == Ejected || m.State() == Probing)
}

// Addr is the address that identifies the origin.
func (m *Member) Addr() string { return m.addr }

// State is what the origin is at this moment. An ejection that is over lasts
// until the first trial.
func (m *Member) State() State { return State(m.state.Load()) }

// Begin counts a request in flight, until End.
func (m *Member) Begin() { m.inflight.Add(1) }

// End is to be called once for each Begin.
func (m *Member) End() { m.inflight.Add(-1) }

// InFlight is how many requests are between Begin and End.
func (m *Member) InFlight() int64 { return m.inflight.Load() }

// step is what an outcome leads to, before policy has been asked.
type step uint8

const (
	stay       step = iota
	goFailing       // an outlier by faults
	goSlow          // an outlier by slowness
	goBroken        // a deterministic fault
	goCommon        // as bad as an outlier, and so is the pool
	failTrial       // a trial failed
	passTrials      // enough trials passed
)

// record counts an outcome and says what should follow.
func (m *Member) record(o *Outcome, p *Pool, t time.Duration) step {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o.Fault != nil && m.isKnownLoss(o.Conn) {
		return stay
	}
	if o.Fault != nil && (o.Fault.Cause == Status || o.Fault.Provoked) && !m.mayComplain(o.Client, t) {
		return stay
	}
	failed := weigh(o.Fault)
	m.seen.Store(int64(t))
	m.failing.average(float64(failed)/unit, t)
	slow := m.measure(o, p, t)
	m.note(o.Fault)
	if m.State() != Healthy {
		m.faults.count(failed, &p.faults, t)
		return m.judgeTrial(o, failed, slow)
	}
	if o.Fault != nil && o.Fault.Trip {
		m.faults.count(failed, &p.faults, t)
		return goBroken
	}
	if next := m.judgeFaults(failed, p, t); next != stay || o.Fault != nil || o.TTFB <= 0 || o.paceless {
		return next
	}
	return m.judgeSlow(slow, p, t)
}

// weigh gives the weight of a fault in units; 0 for none.
func weigh(f *Fault) int64 {
	if f == nil {
		return 0
	}
	return max(1, int64(min(f.Weight, 1)*unit))
}

// isKnownLoss tells that the loss of this connection was counted before, and
// otherwise remembers it.
func (m *Member) isKnownLoss(conn uint64) bool {
	if conn == 0 {
		return false
	}
	for _, c := range m.lost {
		if c == conn {
			return true
		}
	}
	m.lost[m.lostAt] = conn
	m.lostAt = (m.lostAt + 1) % len(m.lost)
	return false
}

// complaint is an error page that a client got.
type complaint struct {
	client uint64
	at     time.Duration
}

const (
	// complaintsOfOne is how many error pages of one client count in
	// complaintsFor: less than ejects, so that it takes three clients.
	complaintsOfOne = 3
	complaintsFor   = time.Minute
)

// mayComplain tells whether another error page that the client got counts.
func (m *Member) mayComplain(client uint64, t time.Duration) bool {
	if client == 0 {
		return true
	}
	n := 0
	for _, c := range m.complaints {
		if c.client == client && t-c.at < complaintsFor {
			n++
		}
	}
	if n >= complaintsOfOne {
		return false
	}
	m.complaints[m.complaintAt] = complaint{client, t}
	m.complaintAt = (m.complaintAt + 1) % len(m.complaints)
	return true
}

// measure takes the latency of an answer and tells whether it was slow.
func (m *Member) measure(o *Outcome, p *Pool, t time.Duration) bool {
	if o.Fault != nil || o.TTFB <= 0 {
		return false
	}
	if median, ok := m.ttfb.advance(t); ok {
		m.median.Store(int64(median))
	}
	own := time.Duration(m.median.Load())
	peers := p.middle.besides(own)
	m.gauge(o, own, peers, t)
	return isSlow(o.TTFB, peers)
}

// gauge takes a sample of the latency. One answer in a while that takes far longer
// than the others, as a long poll does, counts as ten times the usual only: the
// origin would get nothing for many seconds.
func (m *Member) gauge(o *Outcome, own, peers, t time.Duration) {
	sample := o.TTFB
	if own > 0 {
		sample = min(sample, peakFactor*own)
	}
	if !o.Denied {
		m.ttfb.add(o.TTFB)
	} else if usual := cmp.Or(peers, own, time.Duration(m.latency.last())); usual > 0 {
		sample = max(sample, usual)
	} else {
		return
	}
	m.latency.peak(float64(sample), latencyMemory, t)
}

// note keeps how far failures came and whether they can pass by themselves.
func (m *Member) note(f *Fault) {
	if broken := f != nil && f.Trip; broken != m.broken.Load() {
		m.broken.Store(broken)
	}
	if f == nil {
		if m.faults.score == 0 && m.State() == Healthy {
			m.reach, m.kept = "", false
		}
		return
	}
	m.reach = further(m.reach, f.Phase)
}

func (m *Member) judgeTrial(o *Outcome, failed int64, slow bool) step {
	switch {
	case !o.Trial || m.State() != Probing:
		return stay // it was under way as the origin was ejected, or is a last resort
	case failed > 0, slow && m.outFor == ReasonSlow:
		return failTrial
	}
	if m.passed++; m.passed < trialsToReturn {
		return stay
	}
	return passTrials
}

func (m *Member) judgeFaults(failed int64, p *Pool, t time.Duration) step {
	switch m.faults.observe(failed, &p.faults, t) {
	case outlier:
		return goFailing
	case common:
		return goCommon
	}
	return stay
}

func (m *Member) judgeSlow(slow bool, p *Pool, t time.Duration) step {
	failed := int64(0)
	if slow {
		failed = unit
	}
	if m.slow.observe(failed, &p.slow, t) == outlier && m.suspicion.confirm(&m.slow, &p.slow, t) {
		return goSlow
	}
	return stay // slow like its peers, which is no fault, or not yet sure
}

// rank orders what a probe can prove: who completes a handshake can connect.
func rank(p Phase) int {
	switch p {
	case "":
		return 0
	case PhaseDial:
		return 1
	case PhaseTLS:
		return 2
	}
	return 3
}

func further(a, b Phase) Phase {
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// peak sets the value to x if that is higher than what is left of the value, and
// otherwise moves it towards x.
func (f *faded) peak(x float64, memory, t time.Duration) {
	old, at := math.Float64frombits(f.value.Load()), time.Duration(f.at.Load())
	if x < old {
		left := fade(max(0, t-at), memory)
		x += (old - x) * left
	}
	f.set(x, t)
}

// average moves what is left of the value towards x by failingWeight.
func (f *faded) average(x float64, t time.Duration) {
	old := f.read(forget, t)
	if old == 0 && x == 0 {
		return
	}
	next := old + (x-old)*failingWeight
	if next < negligible {
		next = 0 // and from now on a success costs nothing here
	}
	f.set(next, t)
}

func (f *faded) set(x float64, t time.Duration) {
	f.value.Store(math.Float64bits(x))
	f.at.Store(int64(t))
}

// last is the value as it was set.
func (f *faded) last() float64 { return math.Float64frombits(f.value.Load()) }

// read is what is left of the value at t.
func (f *faded) read(memory, t time.Duration) float64 {
	x := math.Float64frombits(f.value.Load())
	if x == 0 {
		return 0
	}
	return x * fade(max(0, t-time.Duration(f.at.Load())), memory)
}
