// SPDX-License-Identifier: Apache-2.0

// The automatic mode, with origins that get into trouble when they have too much
// to do.

package ratelimit

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// simOrigin serves at most so many requests per second and queues for one
// second. Its pressure moves as the specification's controller does.
type simOrigin struct {
	capacity float64
	queue    float64
	served   float64
	lost     float64
	health   float64
	before   int
	told     int
}

const originTick = 100 * time.Millisecond

func (o *simOrigin) act(s *sim) time.Duration {
	passed := 0
	for _, sc := range s.score {
		passed += sc.passed
	}
	o.queue += float64(passed - o.before)
	o.before = passed
	done := min(o.queue, o.capacity*originTick.Seconds())
	o.queue -= done
	o.served += done
	for ; o.told < int(o.served); o.told++ {
		s.zone.Served(1)
	}
	if o.queue > o.capacity {
		o.lost += o.queue - o.capacity
		o.queue = o.capacity
	}
	o.feel(s)
	return originTick
}

// feel lets a queue of a quarter of a second be overload.
func (o *simOrigin) feel(s *sim) {
	if o.queue > o.capacity/4 {
		o.health = max(0.1, 0.8*o.health)
	} else {
		o.health = min(1, o.health+0.02)
	}
	s.pressure = 1 - o.health
}

func newAutoSim(capacity float64) (*sim, *simOrigin) {
	s := newSim(3, AutoPolicy())
	s.policy.Capacity, s.attack = 0, 0 // to be learned
	s.end = 60 * time.Second
	o := &simOrigin{capacity: capacity, health: 1}
	s.add(originTick, o)
	return s, o
}

// A proxy in front that is not trusted, or a load test: one address, nobody
// keeps a cookie, twice what the origin can do. Without a limit it would be busy
// all the time.
func TestAutoGivesOneAddressAllThereIs(t *testing.T) {
	for _, capacity := range []float64{100, 300, 2000} {
		s, o := newAutoSim(capacity)
		s.flood(int(2*capacity), forgetful(s, func(*host) {}))
		s.run(10 * time.Second)
		early := o.served
		s.run(s.end)
		off := capacity * s.end.Seconds()
		t.Logf("capacity %v: served %.1f %%, from 10 s on %.1f %%, lost after admission %.1f %%", capacity,
			100*o.served/off, 100*(o.served-early)/(off-10*capacity), 100*o.lost/off)
		if o.served < 0.98*off {
			t.Errorf("capacity %v: served %.0f, want what it serves without a limit, %.0f", capacity, o.served, off)
		}
		if d := s.zone.Stats(10, s.now()).Dominant; d == nil || d.Prefix.Addr() != simShared {
			t.Errorf("capacity %v: got %+v, want the address that has all traffic", capacity, d)
		}
	}
}

// What was cheap in calm times is soon forgotten under pressure: until then a part of
// it would be admitted, whatever can be done.
func TestAutoForgetsUnderPressureWhatWasCheap(t *testing.T) {
	s, o := newAutoSim(10_000)
	s.flood(5000, forgetful(s, func(*host) {}))
	s.run(60 * time.Second)
	if got := s.zone.Stats(1, s.now()).Capacity; got < 4500 {
		t.Fatalf("in calm times: got a capacity of %.0f, want about 5000", got)
	}
	o.capacity = 200
	s.run(3 * time.Minute)
	before, served, lost := s.score[attackers].passed, o.served, o.lost
	s.run(4 * time.Minute)
	admitted := s.score[attackers].passed - before
	stats := s.zone.Stats(1, s.now())
	t.Logf("two minutes later: total %.0f, capacity %.0f, served %.1f, admitted %.1f, lost %.1f per s",
		stats.Total, stats.Capacity, (o.served-served)/60, float64(admitted)/60, (o.lost-lost)/60)
	if o.served-served < 0.95*60*200 || o.lost-lost > 0.1*60*200 {
		t.Errorf("got %.0f served and %.0f lost after admission in a minute, want about 12000 and next to none", o.served-served, o.lost-lost)
	}
}

// One abuser asks for ten times what all others do, and more than there is.
func TestAutoProtectsTheOthers(t *testing.T) {
	for name, attack := range map[string]func(s *sim) func() *host{
		"no cookie":      func(s *sim) func() *host { return forgetful(s, func(*host) {}) },
		"rotating looks": func(s *sim) func() *host { return forgetful(s, rotatingLooks(s)) },
		"kept cookie":    func(s *sim) func() *host { return one(s.newHost(simShared)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, o := newAutoSim(200)
			s.end = 120 * time.Second
			for i := range 200 {
				h := s.newHost(netip.AddrFrom4([4]byte{11, 0, byte(i), 1}))
				s.add(time.Duration(s.random.Int64N(int64(30*time.Second))), &reader{host: h, in: newcomers})
			}
			s.flood(1000, attack(s))
			s.run(20 * time.Second)
			o.before -= s.score[newcomers].passed
			s.score[newcomers] = simScore{}
			served, lost := o.served, o.lost
			s.run(s.end)
			t.Logf("others %.2f %% of %d, attacker %.1f per s, served %.1f, lost %.1f per s", s.score[newcomers].percent(),
				s.score[newcomers].asked, s.attackRate(), (o.served-served)/100, (o.lost-lost)/100)
			if os.Getenv("RESET_GUARD_LEVELS") != "" {
				s.logLevels(t)
			}
			if got := s.score[newcomers].percent(); got < 99 {
				t.Errorf("others: got %.2f %%, want 99", got)
			}
		})
	}
}

// A botnet whose addresses each ask for little takes nothing from people who have
// proven themselves, many at one address or one at each.
func TestAutoProtectsTheProvenFromBotnets(t *testing.T) {
	for name, tokens := range map[string]int{"no cookies": 0, "rotating tokens": 8} {
		t.Run(name, func(t *testing.T) {
			s, o := newAutoSim(300)
			s.attack, s.end = 60*time.Second, 180*time.Second
			s.people(simShared, simProven, 0)
			for i := range 50 {
				s.people(netip.AddrFrom4([4]byte{12, 0, byte(i), 1}), 1, 0)
			}
			s.flood(3000, bots(s, tokens))
			s.run(s.end)
			t.Logf("people %.2f %% of %d, bots %.1f per s, served %.1f per s", s.score[provenPeople].percent(),
				s.score[provenPeople].asked, s.attackRate(), o.served/s.end.Seconds())
			if os.Getenv("RESET_GUARD_LEVELS") != "" {
				s.logLevels(t)
			}
			if got := s.score[provenPeople].percent(); got < 97 {
				t.Errorf("people: got %.2f %%, want 97", got)
			}
		})
	}
}

// Many offices in one network are served as those in networks of their own, while a
// botnet asks with tokens that it collected.
func TestAutoServesOfficesOfOneNetworkAlike(t *testing.T) {
	percent := func(office func(i int) netip.Addr) float64 {
		s, _ := newAutoSim(600)
		s.attack, s.end = 30*time.Second, 120*time.Second
		for i := range 20 {
			s.people(office(i), 30, 0)
		}
		next := bots(s, 8)
		s.flood(3000, func() *host {
			h := next()
			if h.token.Stage != Trusted {
				h.token = Token{ID: s.zone.newID(), Issued: s.now(), First: s.now(), Stage: Trusted, Home: true}
			}
			return h
		})
		s.run(s.end)
		if testing.Verbose() && os.Getenv("RESET_GUARD_LEVELS") != "" {
			s.logLevels(t)
		}
		return s.score[provenPeople].percent()
	}
	apart := percent(func(i int) netip.Addr { return netip.AddrFrom4([4]byte{12, 0, byte(i), 1}) })
	together := percent(func(i int) netip.Addr { return netip.AddrFrom4([4]byte{12, 0, 0, byte(i)}) })
	t.Logf("in networks of their own %.1f %%, in one %.1f %%", apart, together)
	if together < apart-1 || apart < 95 {
		t.Errorf("got %.1f %% in one network, %.1f %% in networks of their own: want the same, and 95", together, apart)
	}
}

// Without pressure nobody is refused, whatever comes.
func TestAutoRefusesNobodyWithoutPressure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := NewZone(Size{Identities: 16, Addresses: 16, Sites: 8, Bins: 64}, simStart)
		policy, now := AutoPolicy(), simStart
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			r := drawRequest(t, now)
			if d := z.Decide(&policy, &r, 0, now); !d.Allowed || d.RetryAfter != 0 || d.Status() != 200 {
				t.Fatalf("got %+v", d)
			}
			now = now.Add(time.Duration(rapid.IntRange(-1000, 5000).Draw(t, "ms")) * time.Millisecond)
		}
	})
}

// Whoever asks for much in calm times gets no token by that: it would be proven when
// pressure comes, and honest visitors would not. Under pressure all get one.
func TestAutoOffersNoTokensWithoutPressure(t *testing.T) {
	z, policy, now := NewZone(Size{}, simStart), AutoPolicy(), simStart
	burster, visitor := Request{Addr: addrOf(1)}, Request{Addr: addrOf(1 << 16)}
	for i := range 20_000 {
		now = now.Add(time.Millisecond)
		if d := z.Decide(&policy, &burster, 0, now); d.Offer {
			t.Fatalf("request %d of a burst: got %+v, want no offer", i, d)
		}
	}
	for who, r := range map[string]*Request{"burster": &burster, "visitor": &visitor} {
		if d := z.Decide(&policy, r, 0.01, now.Add(time.Minute)); !d.Allowed || !d.Offer {
			t.Errorf("%s under pressure: got %+v, want an offer", who, d)
		}
	}
}

// A client's budget that the operator set binds in Auto too.
func TestAutoKeepsTheClientsBudget(t *testing.T) {
	policy := AutoPolicy()
	policy.ClientRate, policy.ClientBurst = 10, 20
	z, r := NewZone(Size{}, simStart), provenRequest(addrOf(1), 5, simStart)
	for i := range 30 {
		d := z.Decide(&policy, &r, 0, simStart)
		if want := i < 20; d.Allowed != want {
			t.Fatalf("request %d: got %+v, want allowed %v", i, d, want)
		}
	}
}

// Without pressure nobody within that budget is refused, however many share an
// address.
func TestAutoLeavesClientsTheirBudget(t *testing.T) {
	policy := AutoPolicy()
	policy.ClientRate, policy.ClientBurst = 10, 20
	z, now := NewZone(Size{}, simStart), simStart
	for i := range 30 * 1000 { // 200 people, five times a second each
		now = now.Add(time.Millisecond)
		r := provenRequest(addrOf(1), uint64(i%200+1), now)
		if d := z.Decide(&policy, &r, 0, now); !d.Allowed {
			t.Fatalf("request %d: got %+v", i, d)
		}
	}
}

// Nor does anybody get more than that under pressure, when its address is short
// and the origins are not.
func TestAutoLendsNoMoreThanTheClientsBudget(t *testing.T) {
	policy := AutoPolicy()
	policy.ClientRate, policy.ClientBurst = 10, 20
	z, now, passed, short := newSeededZone(Size{}, [32]byte{}, simStart), simStart, 0, 0
	const seconds = 30
	for i := range seconds * 1000 {
		now = now.Add(time.Millisecond)
		r := provenRequest(addrOf(1), uint64(i%200+1), now)
		if i%2 == 0 {
			r = provenRequest(addrOf(1), 1, now)
		}
		d := z.Decide(&policy, &r, 0.1, now)
		z.Served(10) // they could do more
		if r.Token.ID == 1 && d.Allowed {
			passed++
		}
		if d.Level == LevelShare || d.Reason == Lent {
			short++
		}
	}
	if most := 20 + 10*seconds + 1; passed > most || short == 0 {
		t.Errorf("got %d requests in %d s, want %d at most; %d times short", passed, seconds, most, short)
	}
}

// drawRequest is anybody's request.
func drawRequest(t *rapid.T, now time.Time) Request {
	n := rapid.IntRange(0, 40).Draw(t, "who")
	r := Request{Addr: addrOf(n % 7), Port: uint16(n * 1700), Look: uint64(n % 5)}
	switch rapid.IntRange(0, 3).Draw(t, "as") {
	case 1:
		r.User = string(rune('a' + n))
	case 2:
		r.Token = Token{ID: uint64(n + 1), Issued: now, First: now, Stage: Kept, Home: true}
	case 3:
		r = provenRequest(r.Addr, uint64(n+1), now)
	}
	return r
}
