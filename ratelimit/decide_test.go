// SPDX-License-Identifier: Apache-2.0

// Decisions: who is refused, where, why, until when, and what is told.

package ratelimit

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// smallZone is enough for a few clients.
func smallZone() *Zone {
	return newSeededZone(Size{Identities: 64, Addresses: 64, Sites: 64, Bins: 1024}, [32]byte{1}, simStart)
}

func TestClientBudget(t *testing.T) {
	policy := DefaultPolicy()
	policy.ClientRate, policy.ClientBurst = 2, 4
	z, r := smallZone(), provenRequest(addrOf(1), 7, simStart)
	for _, step := range []struct {
		name      string
		at        time.Duration
		allowed   bool
		remaining int
		retry     time.Duration
	}{
		{"first of the burst", 0, true, 3, 0},
		{"second", 0, true, 2, 0},
		{"third", 0, true, 1, 0},
		{"last of the burst", 0, true, 0, 0},
		{"burst spent", 0, false, 0, time.Second},
		{"refusals cost nothing", 0, false, 0, time.Second},
		{"half a second later", 500 * time.Millisecond, true, 0, 0},
		{"clock put back a little", 400 * time.Millisecond, false, 0, time.Second},
		{"long after", time.Minute, true, 3, 0},
	} {
		d := z.Decide(&policy, &r, 0, simStart.Add(step.at))
		if d.Allowed != step.allowed || d.Remaining != step.remaining || d.RetryAfter != step.retry {
			t.Fatalf("%s: got %+v, want %+v", step.name, d, step)
		}
		if d.Limit != 4 || d.Window != 2*time.Second || d.PolicyName() != "client" {
			t.Fatalf("%s: got %d per %v of %s", step.name, d.Limit, d.Window, d.PolicyName())
		}
	}
}

func TestHeavyRequests(t *testing.T) {
	policy := DefaultPolicy()
	policy.ClientRate, policy.ClientBurst = 1, 10
	z := smallZone()
	for i, tc := range []struct {
		weight float64
		want   int // how many pass at once
	}{{0, 10}, {1, 10}, {2.5, 4}, {10, 1}, {1000, 1}, {math.Inf(1), 1}, {math.NaN(), 10}, {-3, 10}, {0.5, 20}} {
		r := provenRequest(addrOf(i), uint64(i+1), simStart)
		r.Weight = tc.weight
		got := 0
		for range 30 {
			if d := z.Decide(&policy, &r, 0, simStart); d.Allowed {
				got++
			}
		}
		if got != tc.want {
			t.Errorf("weight %v: got %d at once, want %d", tc.weight, got, tc.want)
		}
	}
}

// exhaust asks until there is a refusal, and returns it.
func exhaust(t *testing.T, z *Zone, p *Policy, pressure float64, next func(i int) Request) Decision {
	t.Helper()
	for i := range 100_000 {
		r := next(i)
		if d := z.Decide(p, &r, pressure, simStart); !d.Allowed {
			return d
		}
	}
	t.Fatal("never refused")
	return Decision{}
}

func TestWhereRequestsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		pressure float64
		next     func(i int) Request
		class    Class
		level    Level
		reason   Reason
		status   int
	}{
		"verified over its budget": {0, func(int) Request { return Request{Addr: addrOf(1), User: "u"} },
			Verified, LevelClient, OverClient, 429},
		"proven over its budget": {0, func(int) Request { return provenRequest(addrOf(1), 1, simStart) },
			Proven, LevelClient, OverClient, 429},
		"proven, many": {0, func(i int) Request { return provenRequest(addrOf(1), uint64(i+1), simStart) },
			Proven, LevelAddress, OverAddress, 429},
		"young, many": {0, func(i int) Request {
			r := provenRequest(addrOf(1), uint64(i+1), simStart)
			r.Token.First = simStart
			return r
		}, Proven, LevelAddress, OverYoung, 429},
		"proven, all of a /48": {0, func(i int) Request {
			return provenRequest(netip.AddrFrom16([16]byte{0x20, 1, 13: 1, 6: byte(i >> 8), 7: byte(i)}), uint64(i+1), simStart)
		}, Proven, LevelSite, OverSite, 429},
		"one look": {0, func(int) Request { return Request{Addr: addrOf(1)} },
			Unknown, LevelBin, OverLookalikes, 429},
		"all looks": {0, func(i int) Request { return Request{Addr: addrOf(1), Look: uint64(i)} },
			Unknown, LevelAddress, OverAddress, 429},
		"all of a /48": {0, func(i int) Request {
			return Request{Addr: netip.AddrFrom16([16]byte{0x20, 1, 13: 1, 6: byte(i >> 8), 7: byte(i)}), Look: uint64(i)}
		}, Unknown, LevelSite, OverSite, 429},
		"all addresses": {0, func(i int) Request { return Request{Addr: addrOf(i << 8), Look: uint64(i)} },
			Unknown, LevelUnproven, OverUnproven, 503},
		"more than can be done": {1, func(i int) Request { return provenRequest(addrOf(i<<8), uint64(i+1), simStart) },
			Proven, LevelTotal, OverCapacity, 503},
	} {
		t.Run(name, func(t *testing.T) {
			policy := DefaultPolicy()
			if tc.level == LevelUnproven {
				policy.Capacity = 600 // without one, only pressure limits all addresses together
			}
			d := exhaust(t, newSeededZone(Size{}, [32]byte{}, simStart), &policy, tc.pressure, tc.next)
			if d.Class != tc.class || d.Level != tc.level || d.Reason != tc.reason || d.Status() != tc.status {
				t.Errorf("got %v at %v, %v, %d, want %v at %v, %v, %d", d.Class, d.Level, d.Reason, d.Status(),
					tc.class, tc.level, tc.reason, tc.status)
			}
			if d.RetryAfter < time.Second || d.RetryAfter > 80*time.Second || d.RetryAfter%time.Second != 0 {
				t.Errorf("got retry after %v, want whole seconds", d.RetryAfter)
			}
			if d.Offer {
				t.Error("a refusal offers a token")
			}
			if d.Level > LevelClient && d.Class < Proven && d.Limit+d.Remaining != 0 {
				t.Errorf("tells of others: %+v", d)
			}
		})
	}
}

// Under pressure the classes are shed in their order.
func TestShedOrder(t *testing.T) {
	policy := DefaultPolicy()
	policy.Base, policy.Unproven = MaxRate, MaxRate // nothing but the total binds
	z := newSeededZone(Size{}, [32]byte{}, simStart)
	r := Request{Addr: addrOf(1)}
	z.Decide(&policy, &r, 0.9, simStart.Add(time.Second))
	asks := []func(i int) Request{
		func(i int) Request { return Request{Addr: addrOf(i << 8), Look: uint64(i)} },
		func(i int) Request {
			return Request{Addr: addrOf(i << 8), Token: Token{ID: uint64(i + 1), Issued: simStart, First: simStart, Home: true}}
		},
		func(i int) Request {
			r := provenRequest(addrOf(i<<8), uint64(i+1)<<32, simStart)
			r.Token.First = simStart
			return r
		},
		func(i int) Request { return provenRequest(addrOf(i<<8), uint64(i+1), simStart) },
		func(i int) Request { return Request{Addr: addrOf(i << 8), User: strings.Repeat("x", i+1)} },
	}
	for i, ask := range asks {
		passed := 0
		for n := range 1000 {
			r := ask(n)
			if !z.Decide(&policy, &r, 0.9, simStart.Add(time.Second)).Allowed {
				break
			}
			passed++
		}
		if i > 0 && passed == 0 {
			t.Errorf("kind %d: nothing is left of the total after the kind before was refused", i)
		}
	}
}

func TestRetryAfterIsSpread(t *testing.T) {
	z, seen := smallZone(), map[time.Duration]int{}
	for range 1000 {
		d := z.retryAfter(20*time.Second, true)
		if d < 20*time.Second || d > 26*time.Second {
			t.Fatalf("got %v", d)
		}
		seen[d]++
	}
	if len(seen) < 5 {
		t.Errorf("got %v, want it spread", seen)
	}
	if d := z.retryAfter(1500*time.Millisecond, false); d != 2*time.Second {
		t.Errorf("of one client alone: got %v, want 2s", d)
	}
	if d := z.retryAfter(time.Hour, true); d > 77*time.Second {
		t.Errorf("got %v, want a minute and a quarter of it at most", d)
	}
}

// However slow its budget is, a client that waits as it was told is served.
func TestRetryAfterOfSlowBudgets(t *testing.T) {
	for _, perSecond := range []float64{0.01, 1.0 / 60, 0.5, 10} {
		for weight := range 3 {
			z, p := smallZone(), DefaultPolicy()
			p.ClientRate, p.ClientBurst = perSecond, 3
			r := provenRequest(addrOf(1), 7, simStart)
			r.Weight = float64(1 + weight)
			d := z.Decide(&p, &r, 0, simStart)
			for d.Allowed {
				d = z.Decide(&p, &r, 0, simStart)
			}
			if again := z.Decide(&p, &r, 0, simStart.Add(d.RetryAfter)); d.Level != LevelClient || !again.Allowed {
				t.Errorf("%v/s, weight %v: got %+v, and refused again after that", perSecond, r.Weight, d)
			}
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(p *Policy)
		want   string
	}{
		"ok/defaults":           {func(*Policy) {}, ""},
		"ok/auto":               {func(p *Policy) { *p = AutoPolicy() }, ""},
		"ok/no cookie":          {func(p *Policy) { p.CookieLifetime = 0 }, ""},
		"bad/zero":              {func(p *Policy) { *p = Policy{} }, "client rate"},
		"bad/rate":              {func(p *Policy) { p.ClientRate = -1 }, "client rate is -1"},
		"bad/NaN":               {func(p *Policy) { p.Base = math.NaN() }, "network base is NaN"},
		"bad/infinite":          {func(p *Policy) { p.Unproven = math.Inf(1) }, "unproven"},
		"bad/burst":             {func(p *Policy) { p.ClientBurst = 0 }, "client burst"},
		"bad/half of a client":  {func(p *Policy) { *p = AutoPolicy(); p.ClientBurst = 3 }, "client rate"},
		"bad/lifetime":          {func(p *Policy) { p.CookieLifetime = 30 * 24 * time.Hour }, "cookie lifetime"},
		"bad/range":             {func(p *Policy) { p.SharedRanges = make([]netip.Prefix, 1) }, "shared range"},
		"bad/too many ranges":   {func(p *Policy) { p.SharedRanges = make([]netip.Prefix, MaxRanges+1) }, "shared_ranges"},
		"bad/negative capacity": {func(p *Policy) { p.Capacity = -5 }, "capacity"},
	} {
		p := DefaultPolicy()
		tc.change(&p)
		err := p.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

func TestWords(t *testing.T) {
	seen := map[string]bool{}
	for i := range uint8(20) {
		for kind, s := range []string{Class(i).String(), Level(i).String(), Reason(i).String(), Outcome(i).String()} {
			word := fmt.Sprint(kind, s)
			if s != "" && seen[word] {
				t.Errorf("%q has two meanings", s)
			}
			seen[word] = true
		}
	}
	if Class(200).String() != "" || Reason(200).String() != "" {
		t.Error("what does not exist has a name")
	}
}

func TestSharedRangesHaveUsersBeforehand(t *testing.T) {
	policy := DefaultPolicy()
	count := func(addr netip.Addr) int {
		z, n := smallZone(), 0
		for i := range 2000 {
			r := provenRequest(addr, uint64(i+1), simStart)
			if z.Decide(&policy, &r, 0, simStart).Allowed {
				n++
			}
		}
		return n
	}
	addr := netip.MustParseAddr("100.64.3.3")
	alone := count(addr)
	policy.SharedRanges = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
	if got := count(addr); got < alone+provenSeconds*sharedUsers {
		t.Errorf("got %d at once in a shared range, %d elsewhere", got, alone)
	}
}
