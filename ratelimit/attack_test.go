// SPDX-License-Identifier: Apache-2.0

// The specification's attacks, other than those of the simulator.

package ratelimit

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// visit asks as a browser does that keeps its cookie.
func visit(z *Zone, p *Policy, r *Request, now time.Time) Decision {
	d := z.Decide(p, r, 0, now)
	if t, ok := z.Issue(p, r, d, 0, now); ok {
		t.Home = true
		r.Token = t
	}
	return d
}

func TestNewcomersBecomeProven(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	r := Request{Addr: addrOf(1)}
	for _, step := range []struct {
		at    time.Duration
		class Class
		stage Stage
	}{
		{0, Unknown, Given},
		{5 * time.Second, Known, Given},
		{10 * time.Second, Known, Kept},
		{15 * time.Second, Known, Kept},
		{20 * time.Second, Known, Trusted},
		{21 * time.Second, Proven, Trusted},
	} {
		d := visit(z, &p, &r, simStart.Add(step.at))
		if d.Class != step.class || r.Token.Stage != step.stage {
			t.Fatalf("at %v: got %v, stage %d, want %v, %d", step.at, d.Class, r.Token.Stage, step.class, step.stage)
		}
	}
}

// promoteAll brings as many tokens as it can to being proven.
func promoteAll(z *Zone, p *Policy, n int, addr func(i int) netip.Addr) int {
	proven, now := 0, simStart.Add(30*time.Second)
	for i := range n {
		r := Request{Addr: addr(i), Token: Token{ID: uint64(i + 1), Issued: simStart, First: simStart, Stage: Kept, Home: true}}
		if visit(z, p, &r, now); r.Token.Stage == Trusted {
			proven++
		}
	}
	return proven
}

func TestFarmingIsBounded(t *testing.T) {
	p := DefaultPolicy()
	for name, tc := range map[string]struct {
		addr func(i int) netip.Addr
		most int
	}{
		"one address": {func(int) netip.Addr { return addrOf(1) }, promoteBurst},
		"one /24":     {func(i int) netip.Addr { return addrOf(i % 256) }, globalPromoteBurst},
		"one /56":     {func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0x20, 7: byte(i), 15: 1}) }, globalPromoteBurst},
		"everywhere":  {func(i int) netip.Addr { return addrOf(i << 8) }, globalPromoteBurst},
	} {
		z := newSeededZone(Size{}, [32]byte{9}, simStart)
		if got := promoteAll(z, &p, 5000, tc.addr); got > tc.most || got == 0 {
			t.Errorf("%s: got %d proven at once, want 1 to %d", name, got, tc.most)
		}
	}
}

// Promotions that all of them together refuse cost an address none of its credits.
func TestPromotionsAreLookedAtFirst(t *testing.T) {
	z, p := newSeededZone(Size{}, [32]byte{9}, simStart), DefaultPolicy()
	promoteAll(z, &p, 1000, func(i int) netip.Addr { return addrOf(i << 8) }) // no more for anybody
	one := func(int) netip.Addr { return addrOf(1 << 20) }
	if got := promoteAll(z, &p, 100, one); got != 0 {
		t.Fatalf("got %d, want none", got)
	}
	r := Request{Addr: one(0)}
	c := z.newCall(&p, &r, 0, simStart.Add(30*time.Second))
	defer c.enter().Unlock()
	if full := fullness(&c.leaf.promote, c.now); full < 1 {
		t.Errorf("got credits of %v left, want all", full)
	}
}

// A token that is shown again and again does not use up others' credits.
func TestReplayedTokensCostNoCredits(t *testing.T) {
	z, p, now := smallZone(), DefaultPolicy(), simStart.Add(30*time.Second)
	kept := Token{ID: 5, Issued: simStart, First: simStart, Stage: Kept, Home: true}
	for range 5 * promoteBurst {
		r := Request{Addr: addrOf(1), Token: kept}
		visit(z, &p, &r, now)
	}
	r := Request{Addr: addrOf(1), Token: Token{ID: 6, Issued: simStart, First: simStart, Stage: Kept, Home: true}}
	if visit(z, &p, &r, now); r.Token.Stage != Trusted {
		t.Errorf("another token: got stage %d, want it proven", r.Token.Stage)
	}
}

// One token used from many addresses has one budget where it is proven, and is
// one of the unproven anywhere else.
func TestSharedTokens(t *testing.T) {
	z, p := newSeededZone(Size{}, [32]byte{}, simStart), DefaultPolicy()
	passed := 0
	for i := range 1000 {
		r := provenRequest(addrOf(i%256), 5, simStart)
		if z.Decide(&p, &r, 0, simStart).Allowed {
			passed++
		}
	}
	if passed != DefaultClientBurst {
		t.Errorf("at home: got %d at once, want %d", passed, DefaultClientBurst)
	}
	r := provenRequest(addrOf(1<<16), 5, simStart)
	r.Token.Home = false
	if d := z.Decide(&p, &r, 0, simStart); d.Class != Known {
		t.Errorf("elsewhere: got %v, want %v", d.Class, Known)
	}
}

func TestMovedTokens(t *testing.T) {
	p := DefaultPolicy()
	for name, tc := range map[string]struct {
		known time.Duration
		stage Stage
	}{
		"older ones roam":    {2 * time.Hour, Trusted},
		"young ones wait":    {time.Minute, Kept},
		"and at first proof": {time.Hour - time.Second, Kept},
	} {
		z, r := smallZone(), provenRequest(addrOf(1), 5, simStart)
		r.Token.First, r.Token.Home = simStart.Add(-tc.known), false
		if visit(z, &p, &r, simStart); r.Token.Stage != tc.stage {
			t.Errorf("%s: got stage %d, want %d", name, r.Token.Stage, tc.stage)
		}
	}
}

// Stolen or stashed tokens that roam are bounded at each address.
func TestRoamingIsBounded(t *testing.T) {
	z, p, proven := newSeededZone(Size{}, [32]byte{}, simStart), DefaultPolicy(), 0
	for i := range 500 {
		r := provenRequest(addrOf(1), uint64(i+1), simStart)
		r.Token.Home = false
		if visit(z, &p, &r, simStart); r.Token.Home && r.Token.Stage == Trusted {
			proven++
		}
	}
	if proven > roamBurst {
		t.Errorf("got %d, want at most %d", proven, roamBurst)
	}
}

// roamed is how many of n tokens that were proven elsewhere become so here at once.
func roamed(z *Zone, p *Policy, n int, addr func(i int) netip.Addr, now time.Time) int {
	proven := 0
	for i := range n {
		r := provenRequest(addr(i), uint64(i+1), now)
		r.Token.Home = false
		if visit(z, p, &r, now); r.Token.Home && r.Token.Stage == Trusted {
			proven++
		}
	}
	return proven
}

// Nor do they get past the credits of networks and of all, or past how many may be
// counted at an address.
func TestRoamingTakesCredits(t *testing.T) {
	p, now := DefaultPolicy(), simStart
	for name, tc := range map[string]struct {
		addr func(i int) netip.Addr
		most int
	}{
		"one /24":    {func(i int) netip.Addr { return addrOf(i % 256) }, globalPromoteBurst},
		"everywhere": {func(i int) netip.Addr { return addrOf(i << 8) }, globalPromoteBurst},
	} {
		z := newSeededZone(Size{}, [32]byte{9}, simStart)
		if got := roamed(z, &p, 2000, tc.addr, now); got == 0 || got > tc.most {
			t.Errorf("%s: got %d, want 1 to %d", name, got, tc.most)
		}
	}
	z := newSeededZone(Size{}, [32]byte{9}, simStart)
	for i := range 4 * maxUsers {
		r := provenRequest(addrOf(1), uint64(i+1)<<32, now)
		z.Decide(&p, &r, 0, now)
	}
	if got := roamed(z, &p, 10, func(int) netip.Addr { return addrOf(1) }, now.Add(time.Second)); got != 0 {
		t.Errorf("at an address of %d users: got %d, want none", 4*maxUsers, got)
	}
}

// What a network has no credit for costs its addresses none of theirs, of either kind.
func TestCreditsAreLookedAtBeforeAnyIsSpent(t *testing.T) {
	z, p := newSeededZone(Size{}, [32]byte{9}, simStart), DefaultPolicy()
	r := Request{Addr: addrOf(1)}
	c := z.newCall(&p, &r, 0, simStart)
	defer c.enter().Unlock()
	s, mu := z.siteLocked(sitesOf(c.addr).net[0], c.siteBudget().of(size24), c.now)
	take(&s.promote, s.promote.Burst(), c.now)
	mu.Unlock()
	for name, own := range map[string]*rate.Limiter{"promote": &c.leaf.promote, "roam": &c.leaf.roam} {
		if c.promote(own) {
			t.Errorf("%s: promoted without a credit of the network", name)
		}
		if fullness(own, c.now) < 1 || fullness(&z.global.promote, c.now) < 1 {
			t.Errorf("%s: a credit was spent", name)
		}
	}
}

// Whoever has a whole network has no more proven pools than that network: patience
// fills its addresses with proven tokens.
func TestProvenNetworksAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		addr  func(i int) netip.Addr
		times float64
	}{
		"a /48": {func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0x20, 6: byte(i >> 8), 7: byte(i)}) }, size48.pools},
		"a /56": {func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0x20, 7: byte(i)}) }, size56.pools},
		"a /24": {func(i int) netip.Addr { return addrOf(i % 256) }, size24.pools},
	} {
		z, p := newSeededZone(Size{}, [32]byte{}, simStart), DefaultPolicy()
		const seconds, perSecond = 5, 5000
		passed, now := 0, simStart
		for i := range seconds * perSecond {
			now = now.Add(time.Second / perSecond)
			r := provenRequest(tc.addr(i), uint64(i+1), now)
			if z.Decide(&p, &r, 0, now).Allowed {
				passed++
			}
		}
		if most := int(tc.times * provenMax * (provenSeconds + seconds)); passed > most {
			t.Errorf("%s: got %d of %d, want %d at most", name, passed, seconds*perSecond, most)
		}
	}
}

// One /56 leaves its neighbours of the same /48 some of what that has: proven pools,
// unproven ones and credits.
func TestOneSubnetLeavesItsNetworkSome(t *testing.T) {
	subnet := func(n byte) func(i int) netip.Addr {
		return func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0x20, 6: n, 7: byte(i)}) }
	}
	p := DefaultPolicy()
	passed := func(z *Zone, addr func(i int) netip.Addr, request func(i int, addr netip.Addr) Request) (n int) {
		for i := range 5000 {
			r := request(i, addr(i))
			if z.Decide(&p, &r, 0, simStart).Allowed {
				n++
			}
		}
		return n
	}
	for name, request := range map[string]func(i int, addr netip.Addr) Request{
		"proven":   func(i int, addr netip.Addr) Request { return provenRequest(addr, uint64(i+1), simStart) },
		"unproven": func(i int, addr netip.Addr) Request { return Request{Addr: addr, Look: uint64(i)} },
	} {
		z := newSeededZone(Size{}, [32]byte{}, simStart)
		first, second, third := passed(z, subnet(1), request), passed(z, subnet(2), request), passed(z, subnet(3), request)
		if first == 0 || second < first*9/10 || third > first/10 {
			t.Errorf("%s: got %d, %d and %d of three /56s, want as much of the second as of the first, and the /48 used up", name, first, second, third)
		}
	}
	z := newSeededZone(Size{}, [32]byte{}, simStart)
	r := Request{Addr: subnet(1)(1)}
	c := z.newCall(&p, &r, 0, simStart)
	defer c.enter().Unlock()
	var credits []int
	c.atSites(func(l *rate.Limiter, _ time.Time) bool { credits = append(credits, l.Burst()); return true })
	if len(credits) != 2 || 2*credits[0] != credits[1] {
		t.Errorf("got credits %v, want half as many for the /56 as for the /48", credits)
	}
}

// Steps of the clock give nobody more than a bucket.
func TestClockStepsGiveNothing(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	r, passed := provenRequest(addrOf(1), 5, simStart), 0
	for i := range 5000 {
		now := simStart.Add(time.Duration(i%2) * -time.Hour) // back and forth
		if z.Decide(&p, &r, 0, now).Allowed {
			passed++
		}
	}
	if passed != DefaultClientBurst {
		t.Errorf("got %d, want %d", passed, DefaultClientBurst)
	}
}

// Slow answers, whose calls name the time of the request, do not let time go
// faster for everybody.
func TestLateCallsGiveNothing(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientRate, p.ClientBurst = 1, 10
	mine, slow := provenRequest(addrOf(1), 5, simStart), Request{Addr: addrOf(2), Claim: "key"}
	passed := 0
	const seconds = 60
	for i := range seconds {
		now := simStart.Add(time.Duration(i) * time.Second)
		d := z.Decide(&p, &slow, 0, now)
		late := now.Add(-30 * time.Second)
		z.Issue(&p, &slow, d, 0, late)
		z.Confirm(&p, &slow, d, 0, late)
		for z.Decide(&p, &mine, 0, now).Allowed {
			passed++
		}
	}
	if most := 10 + seconds; passed > most {
		t.Errorf("got %d requests in %d s, want %d at most", passed, seconds, most)
	}
}

// A flood of cookies displaces no identity, for only proven ones are remembered.
func TestCookieFloodsDisplaceNobody(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	victim := provenRequest(addrOf(1), 1<<40, simStart)
	for z.Decide(&p, &victim, 0, simStart).Allowed {
	}
	for i := range 10_000 {
		r := Request{Addr: addrOf(2), Token: Token{ID: uint64(i + 1), Issued: simStart, First: simStart, Home: true}}
		z.Decide(&p, &r, 0, simStart)
	}
	if d := z.Decide(&p, &victim, 0, simStart); d.Allowed {
		t.Error("the bucket was reset")
	}
	seen := 0
	z.identities.each(func(identityKey, *identity) { seen++ })
	if seen != 1 {
		t.Errorf("got %d identities, want 1", seen)
	}
}

// Cycling through addresses gives an end of full buckets.
func TestAddressCyclingRunsDry(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.Unproven = 20
	waves := [5]int{}
	for wave := range waves {
		for i := range 20_000 {
			r := Request{Addr: addrOf(i % 4096 << 8), Look: uint64(i)}
			if z.Decide(&p, &r, 0, simStart).Allowed {
				waves[wave]++
			}
		}
	}
	t.Logf("admitted in each wave: %v", waves)
	if waves[4] > waves[0]/100 {
		t.Errorf("got %v, want nothing at last", waves)
	}
}

// Set targeting needs to know which keys share a set: two zones do not agree.
func TestSetsAreUnpredictable(t *testing.T) {
	a, b := NewZone(Size{Addresses: 1 << 10}, simStart), NewZone(Size{Addresses: 1 << 10}, simStart)
	same := 0
	for i := range 1000 {
		n := leafOf(addrOf(i))
		if a.secret.network(n)%256 == b.secret.network(n)%256 {
			same++
		}
	}
	if same > 50 {
		t.Errorf("got %d of 1000 in the same set, want about 4", same)
	}
}

// With no cookies, bots included, there are no tokens.
func TestCookiesOff(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.CookieLifetime = 0
	r := Request{Addr: addrOf(1)}
	if d := visit(z, &p, &r, simStart); d.Offer || r.Token.ID != 0 {
		t.Errorf("got %+v, %+v", d, r.Token)
	}
}
