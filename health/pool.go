// SPDX-License-Identifier: Apache-2.0

// The origins that are compared with one another.

package health

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MaxMembers bounds the origins that a Pool remembers. The ones beyond it are
// used, but nothing is known about them and they are never ejected.
const MaxMembers = 4096

// Pool is a set of origins that answer for one another, and what they have in
// common. It outlives configurations and holds counters, never policy: sites
// use it through a View each. Origins that no View has are remembered while
// there is room, the latest used ones longest, in case they come back. Methods
// may be called from several goroutines.
type Pool struct {
	begin        time.Time
	faults, slow counters
	middle       middle
	bucket       atomic.Int64 // the second that tick has dealt with
	faulty       atomic.Bool
	troubled     atomic.Int64 // origins that a View has and that are not Healthy
	returned     atomic.Int64 // when an origin returned last; 0: none did
	shrunk       atomic.Bool  // an origin has left and nobody has looked whether too many are out

	// byAddr is changed under mu and addrs, and read under either.
	byAddr map[string]*Member
	addrs  sync.RWMutex

	// mu guards what is rare: changes of state and of membership. It is taken
	// before a Member's lock, never while holding one.
	mu      sync.Mutex
	random  *rand.Rand
	active  int // origins that a View has and no operator took out
	out     int // of these, how many are ejected or probing
	refused time.Duration
	worst   float64       // the pool's highest rate in the present fault
	struck  time.Duration // when that began
	alone   bool          // it is one origin's, which has no peers left
	medians []time.Duration
}

// NewPool makes an empty pool. Times before now are taken for now.
func NewPool(now time.Time) *Pool {
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return &Pool{begin: now, random: random, byAddr: make(map[string]*Member)}
}

// Lookup finds an origin by its address; nil if the pool does not know it.
func (p *Pool) Lookup(addr string) *Member {
	p.addrs.RLock()
	defer p.addrs.RUnlock()
	return p.byAddr[addr]
}

// Len is how many origins the pool remembers.
func (p *Pool) Len() int {
	p.addrs.RLock()
	defer p.addrs.RUnlock()
	return len(p.byAddr)
}

// at counts time from the pool's beginning, by the monotonic clock.
func (p *Pool) at(now time.Time) time.Duration { return max(1, now.Sub(p.begin)) }

// Faulty tells that all origins fail alike, as far as is known: ejecting would
// not help, and neither will many retries. Without requests that fades.
func (p *Pool) Faulty(now time.Time) bool {
	return p.faulty.Load() && int64(p.at(now)/bucketOf)-p.bucket.Load() <= buckets
}

// downFrom is the failure rate from which sending again mostly adds to the load:
// of four attempts at 50 % one in sixteen requests still fails, at 30 % less than
// one in a hundred, and for that 1.4 times the requests are sent.
const downFrom = 0.5

// Down tells that all origins fail alike and that at least half of all attempts
// do, so that sending again would help few and burden all.
func (p *Pool) Down(now time.Time) bool {
	return p.Faulty(now) && p.faults.recent().rate() >= downFrom
}

// tick does once a second what concerns the pool as a whole. Who comes too late
// for it does not wait.
func (p *Pool) tick(t time.Duration) []Transition {
	now := int64(t / bucketOf)
	if p.bucket.Load() >= now || !p.mu.TryLock() {
		return nil
	}
	defer p.mu.Unlock()
	if p.bucket.Load() >= now {
		return nil
	}
	p.bucket.Store(now)
	p.faults.advance(t)
	p.slow.advance(t)
	p.collectMediansLocked()
	return p.endFaultLocked(t)
}

func (p *Pool) collectMediansLocked() {
	p.medians = p.medians[:0]
	for _, m := range p.byAddr {
		if d := time.Duration(m.median.Load()); d > 0 && m.refs > 0 {
			p.medians = append(p.medians, d)
		}
	}
	p.middle.set(p.medians)
}

// endFaultLocked ends a pool fault when nothing pointed to it for ten seconds
// and the failures are down to half of what they were: a fault that comes and
// goes is one fault.
func (p *Pool) endFaultLocked(t time.Duration) []Transition {
	if !p.faulty.Load() {
		return nil
	}
	recent := p.faults.recent()
	p.worst = max(p.worst, recent.rate())
	if t-p.refused < poolFaultQuiet || recent.rate() > p.worst/2 {
		return nil
	}
	p.faulty.Store(false)
	e := Transition{
		Reason: ReasonPoolRecovered, Rate: recent.rate(), Requests: int(recent.all / unit),
		Alone: p.alone, Lasted: t - p.struck,
	}
	e.Upstreams, e.Out = p.censusLocked()
	return []Transition{e}
}

// setLocked changes an origin's state and keeps active and out in step.
func (p *Pool) setLocked(m *Member, s State, manual bool, t time.Duration) {
	p.tallyLocked(m, -1)
	if m.State() != s || m.manual.Load() != manual {
		m.since.Store(int64(t))
	}
	if m.State() == Healthy {
		m.left = t
	}
	if m.refs > 0 && (m.State() == Healthy) != (s == Healthy) {
		p.troubled.Add(1 - 2*toInt(s == Healthy))
	}
	m.state.Store(uint32(s))
	m.manual.Store(manual)
	p.tallyLocked(m, 1)
}

func (p *Pool) tallyLocked(m *Member, by int) {
	if m.refs == 0 || m.manual.Load() {
		return
	}
	p.active += by
	if m.isOut() {
		p.out += by
	}
}

// enterLocked and leaveLocked count the Views that have an origin.
func (p *Pool) enterLocked(m *Member) {
	if m.unmanaged {
		return
	}
	if m.refs++; m.refs == 1 {
		p.tallyLocked(m, 1)
		p.troubled.Add(toInt(m.State() != Healthy))
	}
}

func (p *Pool) leaveLocked(m *Member) {
	if m.unmanaged {
		return
	}
	if m.refs == 1 {
		p.tallyLocked(m, -1)
		p.troubled.Add(-toInt(m.State() != Healthy))
		p.shrunk.Store(true)
	}
	m.refs--
}

func toInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// admitLocked returns the origins with these addresses, adding those that are
// missing.
func (p *Pool) admitLocked(addrs []string, t time.Duration) []*Member {
	members := make([]*Member, len(addrs))
	for i, addr := range addrs {
		if members[i] = p.byAddr[addr]; members[i] == nil {
			members[i] = newMember(addr, t)
			p.rememberLocked(members[i], members[:i])
		}
	}
	return members
}

// rememberLocked keeps an origin, if there is room.
func (p *Pool) rememberLocked(m *Member, wanted []*Member) {
	var oldest *Member
	if len(p.byAddr) >= MaxMembers {
		if oldest = oldestOf(p.byAddr, wanted); oldest == nil {
			m.unmanaged = true
			return
		}
	}
	p.addrs.Lock()
	defer p.addrs.Unlock()
	if oldest != nil {
		delete(p.byAddr, oldest.addr)
	}
	p.byAddr[m.addr] = m
}

func newMember(addr string, t time.Duration) *Member {
	m := &Member{addr: addr}
	m.seen.Store(int64(t))
	m.since.Store(int64(t))
	return m
}

// oldestOf finds the origin that is out of use for the longest time; nil if all are
// in use, or about to be.
func oldestOf(known map[string]*Member, wanted []*Member) (oldest *Member) {
	for _, m := range known {
		if m.refs == 0 && (oldest == nil || m.seen.Load() < oldest.seen.Load()) && !slices.Contains(wanted, m) {
			oldest = m
		}
	}
	return oldest
}
