// SPDX-License-Identifier: Apache-2.0

// A simulator on virtual time: clients that do not wait for one another, three
// origins with workers and a line before them, and a guard between.

package concurrency

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"
)

// site is what the origins can do; the guard does not know.
type site struct {
	name    string
	origins int // 0: simOrigins
	workers int // of each origin
	service func(*rand.Rand) time.Duration
	mean    time.Duration // of service
	spread  bool          // cheap and expensive requests
	// patience is when clients leave; the origin does not notice. 0: never.
	patience time.Duration
}

var fastSite = site{
	name: "32 x 20 ms", workers: 32, mean: 20 * time.Millisecond,
	service: func(r *rand.Rand) time.Duration {
		return 10*time.Millisecond + time.Duration(r.ExpFloat64()*float64(10*time.Millisecond))
	},
}

var slowSite = site{
	name: "8 x 100 ms", workers: 8, mean: 100 * time.Millisecond,
	service: func(*rand.Rand) time.Duration { return 100 * time.Millisecond },
}

// mixedSite has cheap and expensive requests.
var mixedSite = site{
	name: "32 x mixed", workers: 32, mean: 25 * time.Millisecond, spread: true,
	service: func(r *rand.Rand) time.Duration {
		if r.Float64() < 0.9 {
			return time.Duration(r.ExpFloat64() * float64(10*time.Millisecond))
		}
		return time.Duration(r.ExpFloat64() * float64(160*time.Millisecond))
	},
}

// smallSite can do so little that a few requests more or less matter.
var smallSite = site{
	name: "4 x 40 ms", origins: 2, workers: 4, mean: 40 * time.Millisecond, patience: inTime,
	service: func(*rand.Rand) time.Duration { return 40 * time.Millisecond },
}

const simOrigins = 3

func (s site) size() int {
	if s.origins == 0 {
		return simOrigins
	}
	return s.origins
}

// capacity is what the origins answer in a second.
func (s site) capacity() float64 { return float64(s.size()*s.workers) / s.mean.Seconds() }

// phase is a time with the same load.
type phase struct {
	name     string
	length   time.Duration
	load     float64       // offered, as a multiple of the whole capacity
	capacity float64       // of the origins, as a share; 0: 1
	slower   float64       // how many times as long the work takes; 0: 1
	drift    time.Duration // added to each answer at the phase's end, growing from what it was
	settling time.Duration // longer than usual
	burst    func(t time.Duration) float64
}

func (p phase) settled() time.Duration { return max(p.settling, settling) }

func (p phase) stretch() float64 {
	if p.slower == 0 {
		return 1
	}
	return p.slower
}

func (p phase) share() float64 {
	if p.capacity == 0 {
		return 1
	}
	return p.capacity
}

// simCase is a run.
type simCase struct {
	site     site
	phases   []phase
	guard    func(now time.Time) limiterUnderTest
	policy   Policy
	order    order
	critical float64
	seed     uint64
	sleep    func(time.Duration) // for guards that read the clock
}

// limiterUnderTest is a Limiter, or something in its place.
type limiterUnderTest interface {
	slots
	take(now time.Time) func(ttfb time.Duration, o Outcome, now time.Time)
}

// settling is how long a phase is not judged.
const settling = 2 * time.Second

// inTime is how soon an answer must come.
const inTime = time.Second

// tallies is what happened in a phase, after settling.
type tallies struct {
	phase            phase
	offered, good    int
	refused          int // at any time of the phase
	answered         []time.Duration
	critical, keptUp int // critical ones offered, and answered in time
	began            time.Duration
	possible         float64
}

func (t *tallies) p99() time.Duration {
	if len(t.answered) == 0 {
		return 0
	}
	slices.Sort(t.answered)
	return t.answered[len(t.answered)*99/100]
}

// goodput is which share of what was possible was answered in time.
func (t *tallies) goodput() float64 { return float64(t.good) / t.possible }

type simRequest struct {
	class   Class
	arrived time.Duration
	phase   *tallies
	origin  int
	sent    time.Duration
	done    func(time.Duration, Outcome, time.Time) // nil once called
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

type simOrigin struct {
	busy, workers int
	line          []*simRequest
	inflight      int
}

type simulation struct {
	simCase
	random  *rand.Rand
	start   time.Time
	now     time.Duration
	seq     int
	events  events
	gate    *Gate
	guards  []limiterUnderTest
	origins []simOrigin
	granted chan answer
	waiting map[*waiter]*simRequest
	drift   func(time.Duration) time.Duration
	stretch float64 // of the work
	results []*tallies
	current *tallies
}

// run plays all phases.
func (c simCase) run() []*tallies {
	s := &simulation{simCase: c, random: rand.New(rand.NewPCG(c.seed, 7)), start: time.Now()}
	s.granted = make(chan answer, 1<<16)
	s.waiting = make(map[*waiter]*simRequest)
	s.gate = NewGate(c.policy)
	s.gate.order = c.order
	list := make([]slots, c.site.size())
	s.origins = make([]simOrigin, c.site.size())
	for i := range list {
		g := c.guard(s.start)
		s.guards, list[i] = append(s.guards, g), g
		s.origins[i].workers = c.site.workers
	}
	s.gate.sync(list)
	from, drift := time.Duration(0), time.Duration(0)
	for _, p := range c.phases {
		s.schedule(p, from, drift)
		from, drift = from+p.length, p.drift
	}
	s.at(from, func() { s.current = &tallies{began: from} })
	s.loop(from + inTime)
	return s.results
}

func (s *simulation) at(t time.Duration, do func()) {
	s.seq++
	heap.Push(&s.events, event{t, s.seq, do})
}

func (s *simulation) clock() time.Time { return s.start.Add(s.now) }

func (s *simulation) loop(end time.Duration) {
	for len(s.events) > 0 {
		e := heap.Pop(&s.events).(event)
		if e.at > end {
			return
		}
		if s.sleep != nil && e.at > s.now {
			s.sleep(e.at - s.now)
		}
		s.now = e.at
		e.do()
	}
}

// schedule makes a phase happen.
func (s *simulation) schedule(p phase, from, drift time.Duration) {
	judged := max(p.length-p.settled(), 0)
	workers := int(float64(s.site.workers)*p.share() + 0.5)
	possible := s.site.capacity() * judged.Seconds() * float64(workers) / float64(s.site.workers) / p.stretch()
	result := &tallies{phase: p, possible: possible, began: from}
	s.results = append(s.results, result)
	s.at(from, func() {
		s.current, s.stretch = result, p.stretch()
		for i := range s.origins {
			s.origins[i].workers = workers
			s.work(i)
		}
		s.drift = func(t time.Duration) time.Duration {
			return drift + time.Duration(float64(p.drift-drift)*min(1, float64(t-from)/float64(p.length)))
		}
		s.next(p, from, result)
	})
	s.at(from+p.length, func() { result.possible = min(possible, float64(result.offered)) })
}

// next makes the next request of a phase arrive.
func (s *simulation) next(p phase, from time.Duration, result *tallies) {
	if p.load == 0 {
		return
	}
	rate := p.load * s.site.capacity()
	if p.burst != nil {
		rate *= p.burst(s.now - from)
	}
	t := s.now + time.Duration(s.random.ExpFloat64()/rate*float64(time.Second))
	if t >= from+p.length {
		return
	}
	s.at(t, func() {
		s.arrive(result, from)
		s.next(p, from, result)
	})
}

func (s *simulation) arrive(result *tallies, from time.Duration) {
	r := &simRequest{arrived: s.now, phase: result}
	if s.random.Float64() < s.critical {
		r.class = Critical
	}
	if s.now-from < result.phase.settled() {
		r.phase = &tallies{} // not judged, but for refusals
	} else {
		result.offered++
		if r.class == Critical {
			result.critical++
		}
	}
	if r.class.index() > int(s.gate.waiting.Load()) && s.gate.hasRoom(r.class) {
		s.send(r)
		return
	}
	w := &waiter{class: r.class, ready: s.granted}
	s.waiting[w] = r
	if s.policy.Queue == 0 || !s.gate.enter(w) {
		s.refuse(w, result)
		return
	}
	s.at(s.now+s.policy.Queue, func() {
		if s.gate.withdraw(w) {
			s.refuse(w, result)
		}
	})
	s.settle(result)
}

func (s *simulation) refuse(w *waiter, result *tallies) {
	delete(s.waiting, w)
	result.refused++
}

// settle serves those whose waiting has ended.
func (s *simulation) settle(result *tallies) {
	for len(s.granted) > 0 {
		a := <-s.granted
		r := s.waiting[a.w]
		delete(s.waiting, a.w)
		if a.place {
			s.gate.pending.Add(-1)
			s.send(r)
		} else {
			result.refused++
		}
	}
}

// send chooses the one of two origins with fewer in flight.
func (s *simulation) send(r *simRequest) {
	r.origin = -1
	size := len(s.origins)
	first := s.random.IntN(size)
	for i := range size {
		k := (first + i) % size
		if s.gate.Keeps(s.guards[k], r.class) {
			continue
		}
		if r.origin >= 0 {
			if s.origins[k].inflight < s.origins[r.origin].inflight {
				r.origin = k
			}
			break
		}
		r.origin = k
	}
	r.origin = max(r.origin, 0)
	o := &s.origins[r.origin]
	o.inflight++
	r.sent, r.done = s.now, s.guards[r.origin].take(s.clock())
	o.line = append(o.line, r)
	s.work(r.origin)
	if p := s.site.patience; p > 0 {
		s.at(r.arrived+p, func() { s.end(r, Abandoned) })
	}
}

// end gives a request's place back. It tells whether that had not been done.
func (s *simulation) end(r *simRequest, o Outcome) bool {
	if r.done == nil {
		return false
	}
	s.origins[r.origin].inflight--
	r.done(s.now-r.sent, o, s.clock())
	r.done = nil
	s.gate.Wake()
	s.settle(s.current)
	return true
}

// work gives what stands in line to workers that are free.
func (s *simulation) work(i int) {
	o := &s.origins[i]
	for o.busy < o.workers && len(o.line) > 0 {
		r := o.line[0]
		o.line = o.line[1:]
		o.busy++
		took := time.Duration(float64(s.site.service(s.random)) * s.stretch)
		s.at(s.now+took, func() { o.busy--; s.work(i) })
		s.at(s.now+took+s.drift(s.now), func() { s.answer(r) })
	}
}

func (s *simulation) answer(r *simRequest) {
	if !s.end(r, OK) {
		return
	}
	took := s.now - r.arrived
	if took <= inTime && r.class == Critical {
		r.phase.keptUp++
	}
	if now := s.current; s.now-now.began >= now.phase.settled() {
		now.answered = append(now.answered, took)
		if took <= inTime {
			now.good++
		}
	}
}
