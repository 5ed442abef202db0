// SPDX-License-Identifier: Apache-2.0

// The simulator's traffic: people who read pages, and attackers, on fake time.

package ratelimit

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"
)

// The people of the specification: a page is 15 requests in 1.5 s, about every
// 30 s; refused requests are not repeated.
const (
	pageRequests = 15
	pageGap      = 100 * time.Millisecond
	simCapacity  = 600
	simProven    = 200
	simNewcomers = 50
	simWarmUp    = 120 * time.Second
	// simLooks: the commonest of people's looks is that of 8 % of them.
	simLooks      = 64
	simCommonLook = 0.08
)

var simStart = time.Unix(1_800_000_000, 0)

// group is who a request is counted for.
type group uint8

const (
	provenPeople group = iota
	newcomers
	attackers
	groups
)

// simScore counts what a group asked for and got.
type simScore struct{ asked, passed int }

func (s simScore) percent() float64 { return 100 * float64(s.passed) / float64(max(1, s.asked)) }

// actor does something at its time and says when it wants to act again; 0: never.
type actor interface {
	act(s *sim) time.Duration
}

type simEvent struct {
	at  time.Duration
	seq int
	who actor
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// sim is one run. Only what is asked from the attack's begin on is counted.
type sim struct {
	zone     *Zone
	policy   Policy
	random   *rand.Rand
	queue    simQueue
	seq      int
	t        time.Duration
	attack   time.Duration // when it begins
	end      time.Duration
	score    [groups]simScore
	pressure float64
	blocks   []int // blocks of 128 ports that nobody has yet; nil: random ports
	refused  [groups][classes][levels]int
}

func newSim(seed uint64, policy Policy) *sim {
	s := &sim{
		zone:   newSeededZone(Size{}, [32]byte{byte(seed), byte(seed >> 8), 1}, simStart),
		policy: policy, random: rand.New(rand.NewPCG(seed, 1)), attack: simWarmUp,
	}
	s.policy.Capacity = simCapacity
	return s
}

func (s *sim) now() time.Time { return simStart.Add(s.t) }

func (s *sim) add(at time.Duration, who actor) {
	s.seq++
	heap.Push(&s.queue, simEvent{at, s.seq, who})
}

func (s *sim) run(until time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at <= until {
		e := heap.Pop(&s.queue).(simEvent)
		s.t = e.at
		if again := e.who.act(s); again > 0 {
			s.add(s.t+again, e.who)
		}
	}
	s.t = until
}

// host is somebody with an address, perhaps a port block, a look and a token.
type host struct {
	addr  netip.Addr
	block int // -1: random ports
	look  uint64
	token Token
}

func (s *sim) newHost(addr netip.Addr) *host {
	h := &host{addr: addr, block: -1, look: s.look()}
	if s.blocks != nil {
		h.block, s.blocks = s.blocks[0], s.blocks[1:]
	}
	return h
}

func (s *sim) look() uint64 {
	if s.random.Float64() < simCommonLook {
		return 0
	}
	return 1 + s.random.Uint64N(simLooks-1)
}

// stratifiedLook gives 8 of each 100 newcomers the commonest look, so that few of
// them are a fair sample.
func stratifiedLook(i int) uint64 {
	if share := int(100 * simCommonLook); i*share%100 < share {
		return 0
	}
	return 1 + uint64(i)%(simLooks-1)
}

// useBlocks gives every host a block of ports of its own, as carriers do.
func (s *sim) useBlocks() {
	s.blocks = s.random.Perm(504)
	for i := range s.blocks {
		s.blocks[i] += 8 // ports from 1024
	}
}

func (s *sim) port(h *host) uint16 {
	if h.block < 0 {
		return uint16(1024 + s.random.IntN(64512))
	}
	return uint16(h.block<<7 | s.random.IntN(128))
}

// ask sends one request, counts it, and takes the token that it gets.
func (s *sim) ask(h *host, g group) bool {
	r := Request{Addr: h.addr, Port: s.port(h), Look: h.look, Token: h.token}
	d := s.zone.Decide(&s.policy, &r, s.pressure, s.now())
	if s.t >= s.attack {
		s.score[g].asked++
		if d.Allowed {
			s.score[g].passed++
		} else {
			s.refused[g][d.Class][d.Level]++
		}
	}
	if t, ok := s.zone.Issue(&s.policy, &r, d, s.pressure, s.now()); ok {
		h.token = t
		h.token.Home = true
	}
	return d.Allowed
}

// reader reads pages until the simulation ends.
type reader struct {
	host *host
	in   group
	sent int
}

func (p *reader) act(s *sim) time.Duration {
	s.ask(p.host, p.in)
	if p.sent++; p.sent%pageRequests != 0 {
		return pageGap
	}
	return 20*time.Second + time.Duration(s.random.Int64N(int64(20*time.Second)))
}

// people adds readers who are proven from the beginning, and newcomers who come
// during the attack.
func (s *sim) people(addr netip.Addr, proven, fresh int) {
	first := simStart.Add(-2 * time.Hour)
	for range proven {
		h := s.newHost(addr)
		h.token = Token{ID: s.zone.newID(), Issued: simStart, First: first, Stage: Trusted, Home: true}
		s.add(time.Duration(s.random.Int64N(int64(30*time.Second))), &reader{host: h, in: provenPeople})
	}
	for i := range fresh {
		at := s.attack + time.Duration(s.random.Int64N(int64(s.end-s.attack)))
		h := s.newHost(addr)
		h.look = stratifiedLook(i)
		s.add(at, &reader{host: h, in: newcomers})
	}
}

// flood sends requests at random times, each from whom next tells. At even times
// it would always be there first when a bucket has refilled.
type flood struct {
	every float64 // nanoseconds, on average
	next  func() *host
}

func (f *flood) act(s *sim) time.Duration {
	s.ask(f.next(), attackers)
	return max(1, time.Duration(f.every*s.random.ExpFloat64()))
}

func (s *sim) flood(perSecond int, next func() *host) {
	s.add(s.attack, &flood{float64(time.Second) / float64(perSecond), next})
}

// farmer keeps one token until it is proven.
type farmer struct{ host *host }

func (f *farmer) act(s *sim) time.Duration {
	if f.host.token.Stage == Trusted {
		return 0
	}
	s.ask(f.host, attackers)
	return 11 * time.Second
}

// farm collects tokens at one address before the attack, and lets it begin.
func (s *sim) farm(addr netip.Addr, n int, over time.Duration) []*host {
	hosts := make([]*host, n)
	for i := range hosts {
		hosts[i] = s.newHost(addr)
		s.add(over*time.Duration(i)/time.Duration(n), &farmer{hosts[i]})
	}
	return hosts
}
