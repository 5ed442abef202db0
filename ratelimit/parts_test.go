// SPDX-License-Identifier: Apache-2.0

// The parts that decisions are made of: networks, clock, users, tables, ports.

package ratelimit

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func TestNetworks(t *testing.T) {
	for _, tc := range []struct{ addr, leaf, home, widest string }{
		{"192.0.2.77", "192.0.2.77/32", "192.0.2.0/24", "192.0.2.0/24"},
		{"::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24", "192.0.2.0/24"},
		{"2001:db8:1:2345:6::7", "2001:db8:1:2345::/64", "2001:db8:1::/48", "2001:db8:1::/48"},
		{"::1", "::/64", "::/48", "::/48"},
	} {
		addr := netip.MustParseAddr(tc.addr)
		s := sitesOf(addr)
		for _, c := range []struct{ got, want string }{
			{leafOf(addr).prefix().String(), tc.leaf},
			{homeOf(addr).prefix().String(), tc.home},
			{s.net[s.n-1].prefix().String(), tc.widest},
		} {
			if c.got != c.want {
				t.Errorf("%s: got %s, want %s", tc.addr, c.got, c.want)
			}
		}
	}
	if s := sitesOf(netip.MustParseAddr("2001:db8:1:2345::1")); s.net[0].prefix().String() != "2001:db8:1:2300::/56" {
		t.Errorf("got %s, want the /56", s.net[0].prefix())
	}
	leafOf(netip.Addr{}) // must not panic: the address may be unknown
}

func TestClockNeverRunsBackwards(t *testing.T) {
	c := clock{begin: simStart}
	for _, step := range []struct {
		name     string
		at, want time.Duration
	}{
		{"begins", 0, 0},
		{"goes on", 10 * time.Second, 10 * time.Second},
		{"a late call", 9500 * time.Millisecond, 10 * time.Second},
		{"and on", 11 * time.Second, 11 * time.Second},
		{"a very late call", time.Second, 11 * time.Second},
		{"as late as before", 3 * time.Second, 11 * time.Second},
		{"before it began", -time.Hour, 11 * time.Second},
		{"and on again", 12 * time.Second, 12 * time.Second},
	} {
		if got := c.since(simStart.Add(step.at)); got != step.want {
			t.Fatalf("%s: got %v, want %v", step.name, got, step.want)
		}
	}
}

func TestUsersAreCounted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		n    int
		most float64 // relative error, three times the standard one
	}{{0, 0}, {1, 0.01}, {10, 0.2}, {200, 0.15}, {500, 0.2}, {1000, 0.35}, {100_000, 1}} {
		var u users
		u.advance(1)
		for range tc.n {
			h := random.Uint64()
			u.see(h)
			u.see(h) // the same one again
		}
		got := u.count()
		if off := math.Abs(got-float64(tc.n)) / max(1, float64(tc.n)); off > tc.most {
			t.Errorf("%d users: got %.1f", tc.n, got)
		}
		if u.advance(2); u.count() != got {
			t.Errorf("%d users an epoch later: got %.1f, want %.1f", tc.n, u.count(), got)
		}
		if u.advance(3); u.count() != 0 {
			t.Errorf("%d users two epochs later: got %.1f, want 0", tc.n, u.count())
		}
	}
}

// Under pressure an address has at most twice the users that it had.
func TestUsersAreBelievedSlowly(t *testing.T) {
	l := leaf{count: 400, slow: 50}
	for _, tc := range []struct{ prior, pressure, want float64 }{
		{0, 0, 400}, {0, 1, 108}, {0, 0.5, 254}, {32, 1, 108}, {500, 0, 500},
	} {
		if got := l.believed(tc.prior, tc.pressure); got != tc.want {
			t.Errorf("prior %v, pressure %v: got %v, want %v", tc.prior, tc.pressure, got, tc.want)
		}
	}
}

// one is a value with nothing but a bucket, as in the attack on caches of them.
type oneBucket struct{ rate.Limiter }

func (b *oneBucket) headroom(now time.Time) float64 { return fullness(&b.Limiter, now) }

// Cycling through more keys than there is room for gives full buckets again and
// again where the oldest key is forgotten. Here the waves run dry.
func TestTableInheritsDebts(t *testing.T) {
	tb := newTable[uint64, oneBucket](1<<10, 8)
	random := secret{3, 5}
	var waves [5]int
	for wave := range waves {
		for range 20 {
			for key := range uint64(4096) {
				hash := random.sum(key, 0)
				mu := tb.lock(hash)
				b, from := tb.claimLocked(hash, key, simStart)
				if from == fresh {
					fill(&b.Limiter, 1, 20)
				}
				if b.AllowN(simStart, unit) {
					waves[wave]++
				}
				mu.Unlock()
			}
		}
	}
	t.Logf("admitted of %d in each wave: %v", 20*4096, waves)
	if total := len(tb.sets) * tb.ways * 20; waves[0]+waves[1]+waves[2] > total || waves[4] != 0 {
		t.Errorf("got %v, want at most %d, and 0 at last", waves, total)
	}
}

// A key in use stays while others come and go.
func TestTableKeepsTheIndebted(t *testing.T) {
	tb := newTable[uint64, oneBucket](8, 8)
	b, _ := tb.claimLocked(0, 1, simStart)
	fill(&b.Limiter, 1, 20)
	take(&b.Limiter, 15*unit, simStart)
	for key := uint64(2); key < 100; key++ {
		if o, from := tb.claimLocked(0, key, simStart); from == fresh {
			fill(&o.Limiter, 1, 20)
		}
	}
	if b, from := tb.claimLocked(0, 1, simStart); from != found || fullness(&b.Limiter, simStart) != 0.25 {
		t.Errorf("got origin %d", from)
	}
}

func TestPortWatch(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for name, tc := range map[string]struct {
		port func() uint16
		want bool
	}{
		"eight blocks": {func() uint16 { return uint16(4096*(1+random.IntN(8)) + random.IntN(128)) }, true},
		"random ports": {func() uint16 { return uint16(1024 + random.IntN(64000)) }, false},
		"unknown":      {func() uint16 { return 0 }, false},
	} {
		var w portWatch
		for range 4 * portSample {
			w.refused(tc.port(), simStart)
		}
		if got := w.tells(5000, simStart); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		if w.tells(5000, simStart.Add(2*portMemory)) {
			t.Errorf("%s: remembered too long", name)
		}
	}
}

func TestGive(t *testing.T) {
	var l rate.Limiter
	fill(&l, 10, 100)
	take(&l, 90*unit, simStart)
	for _, step := range []struct{ give, want float64 }{{5, 15}, {0, 15}, {-3, 15}, {1000, 100}, {1, 100}} {
		give(&l, step.give, simStart)
		if got := l.TokensAt(simStart) / unit; math.Abs(got-step.want) > 1e-6 {
			t.Errorf("given %v: got %v, want %v", step.give, got, step.want)
		}
	}
}

// Two hundred people come back at once to an address that nobody remembers, after
// a restart. None of them has been known for long.
func TestProvenUsersComeBackTogether(t *testing.T) {
	z, p := NewZone(Size{}, simStart), DefaultPolicy()
	refused := 0
	for i := range 2000 { // 200 a second
		now := simStart.Add(time.Duration(i) * 5 * time.Millisecond)
		r := provenRequest(addrOf(1), uint64(i%200+1), now)
		r.Token.First = now.Add(-time.Minute)
		if d := z.Decide(&p, &r, 0, now); !d.Allowed {
			refused++
		}
	}
	if refused > 0 {
		t.Errorf("%d of 2000 requests were refused, want none", refused)
	}
}

// Nobody at the address has been known for long. Collected tokens, whose buckets are
// full, ask for 300 a second from the second half on, two hundred people for one each,
// evenly or at random.
func TestLightUsersGoFirst(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tokens uint64
		random bool
		most   float64 // part of the people's requests that may be refused
	}{
		{"50 tokens", 50, false, 0.001},
		{"50 tokens, people at random", 50, true, 0.001},
		{"100 tokens, people at random", 100, true, 0.01},
	} {
		t.Run(tc.name, func(t *testing.T) {
			z, p, random := newSeededZone(Size{}, [32]byte{}, simStart), DefaultPolicy(), rand.New(rand.NewPCG(1, 2))
			p.ClientBurst = 20
			ask := func(id uint64, now time.Time) bool {
				r := provenRequest(addrOf(1), id, now)
				r.Token.First = now.Add(-time.Minute)
				return z.Decide(&p, &r, 0, now).Allowed
			}
			const perSecond, seconds = 500, 60
			asked, refused, farmed := 0, 0, 0
			for i := range 2 * seconds * perSecond {
				now := simStart.Add(time.Duration(i) * time.Second / perSecond)
				switch {
				case i%5 < 2:
					id := uint64(i/5*2+i%5) % 200
					if tc.random {
						id = random.Uint64N(200)
					}
					asked++
					if !ask(1+id, now) {
						refused++
					}
				case i >= seconds*perSecond && ask(1000+uint64(i/5*3+i%5)%tc.tokens, now):
					farmed++
				}
			}
			t.Logf("of %d requests of people %d were refused; of %d of the tokens' %d passed", asked, refused, seconds*300, farmed)
			if float64(refused) > tc.most*float64(asked) {
				t.Errorf("%d of %d requests of people were refused, want at most %v of them", refused, asked, tc.most)
			}
			if most := seconds*150 + 20*int(tc.tokens); farmed > most {
				t.Errorf("%d requests of the tokens passed, want at most %d", farmed, most)
			}
		})
	}
}

// Whoever is the first to ask after a tick, the highest pressure counts.
func TestPressureOfAZoneIsTheHighest(t *testing.T) {
	z, p := smallZone(), AutoPolicy()
	r := Request{Addr: addrOf(1)}
	for i := range 20 {
		now := simStart.Add(time.Duration(i) * globalTick)
		z.Decide(&p, &r, 0, now)
		if total := z.Stats(1, now).Total; i > 0 && total == 0 {
			t.Fatalf("tick %d: got no limit, want that of full pressure", i)
		}
		z.Decide(&p, &r, 1, now.Add(globalTick/2))
	}
}

// What the origins can do is learned of answers that are worth something, and not in
// a moment.
func TestCapacityIsLearned(t *testing.T) {
	learn := func(seconds int, tells bool, answer func(z *Zone)) float64 {
		z, p, r := smallZone(), AutoPolicy(), Request{Addr: addrOf(1)}
		now := simStart
		if tells {
			z.TellsServed()
		}
		for range seconds * 1000 {
			now = now.Add(time.Millisecond)
			z.Decide(&p, &r, 0, now)
			answer(z)
		}
		return z.Stats(1, now).Capacity
	}
	well, nothing := func(z *Zone) { z.Served(1) }, func(*Zone) {}
	for _, tc := range []struct {
		name      string
		seconds   int
		tells     bool
		answer    func(z *Zone)
		low, high float64
	}{
		{"a second of it", 1, true, well, capacityFloor, 300},
		{"a minute of it", 60, true, well, 980, 1000},
		{"not announced", 60, false, well, 980, 1000},
		{"errors of clients", 60, true, func(z *Zone) { z.ServedCheaply(1) }, 0, capacityFloor},
		{"nothing but errors of origins", 60, true, nothing, 0, capacityFloor},
		{"nobody tells", 60, false, nothing, 980, 1000},
	} {
		if got := learn(tc.seconds, tc.tells, tc.answer); got < tc.low || got > tc.high {
			t.Errorf("%s: got %v, want %v to %v", tc.name, got, tc.low, tc.high)
		}
	}
}

func TestTotalAt(t *testing.T) {
	for _, tc := range []struct{ flow, capacity, pressure, want float64 }{
		{1000, 1000, 0, math.Inf(1)},
		{1000, 1000, 1, 905},
		{0, 1000, 1, 150},
		{0, 0, 1, 1},
		{0, 1000, 0.05, 750},
		{0, 1000, 0.2, 150},
		{1000, 1000, 0.62, 1000 * (1.15 - 0.155 + 0.005/0.62)},
	} {
		if got := totalAt(tc.flow, tc.capacity, tc.pressure); math.Abs(got-tc.want) > 1e-6 {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}
