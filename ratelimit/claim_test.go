// SPDX-License-Identifier: Apache-2.0

// Claims: what makes them an identity, and what does not.

package ratelimit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestClaimsCountOnceConfirmed(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	key := Request{Addr: addrOf(1), Claim: "key-1"}
	for _, step := range []struct {
		name    string
		r       Request
		class   Class
		confirm bool
	}{
		{"nobody has checked it", key, Unknown, false},
		{"the origin refused it", key, Unknown, false},
		{"the origin took it", key, Unknown, true},
		{"from now on", key, Proven, false},
		{"from its network", Request{Addr: addrOf(2), Claim: "key-1"}, Proven, false},
		{"from elsewhere", Request{Addr: addrOf(70000), Claim: "key-1"}, Unknown, false},
		{"another key", Request{Addr: addrOf(1), Claim: "key-2"}, Unknown, false},
		{"a token goes on to count", Request{Addr: addrOf(1), Claim: "key-2", Token: Token{ID: 1}}, Known, false},
		{"a user of that name", Request{Addr: addrOf(1), User: "key-1"}, Verified, false},
	} {
		d := z.Decide(&p, &step.r, 0, simStart)
		if d.Class != step.class {
			t.Errorf("%s: got %v, want %v", step.name, d.Class, step.class)
		}
		if step.confirm {
			z.Confirm(&p, &step.r, d, 0, simStart)
		}
	}
}

// A claim that is denied counts no more, and has used up what it had.
func TestDeniedClaims(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientRate, p.ClientBurst = 0.01, 3
	key := Request{Addr: addrOf(1), Claim: "key-1"}
	ask := func() Decision { return z.Decide(&p, &key, 0, simStart) }
	z.Confirm(&p, &key, ask(), 0, simStart)
	for range 3 {
		if d := ask(); d.Class != Proven || !d.Allowed {
			t.Fatalf("confirmed: got %+v", d)
		}
	}
	z.Deny(&key)
	d := ask()
	if d.Class != Unknown {
		t.Fatalf("denied: got %v, want %v", d.Class, Unknown)
	}
	z.Confirm(&p, &key, d, 0, simStart)
	if d := ask(); d.Class != Proven || d.Allowed {
		t.Errorf("confirmed again: got %+v, want its budget still used up", d)
	}
}

// A claim counts in the networks where it was confirmed, each of which costs a credit once.
// What strangers do with it elsewhere counts there, and it has one bucket.
func TestClaimsBelongToTheirNetworks(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientRate, p.ClientBurst = 0.01, 6
	home, away := Request{Addr: addrOf(1), Claim: "key-1"}, Request{Addr: addrOf(70000), Claim: "key-1"}
	ask := func(r *Request) Decision { return z.Decide(&p, r, 0, simStart) }
	z.Confirm(&p, &home, ask(&home), 0, simStart)
	if z.Deny(&away); ask(&home).Class != Proven {
		t.Error("a stranger's denial took the claim from its owner")
	}
	if d := ask(&away); d.Class != Unknown {
		t.Errorf("elsewhere: got %v, want %v", d.Class, Unknown)
	}
	before := creditsOf(z, &p, away.Addr)
	for range 3 {
		for _, r := range []*Request{&away, &home} {
			z.Confirm(&p, r, ask(r), 0, simStart)
		}
	}
	if spent := before - creditsOf(z, &p, away.Addr); spent != 1 {
		t.Errorf("confirming it elsewhere took %v credits, want 1", spent)
	}
	if here, there := ask(&home), ask(&away); here.Class != Proven || there.Class != Proven {
		t.Errorf("confirmed in both: got %v at home, %v there", here.Class, there.Class)
	} else if there.Allowed {
		t.Error("it has another budget there")
	}
	if z.Deny(&away); ask(&away).Class != Unknown || ask(&home).Class != Proven {
		t.Errorf("denied elsewhere: got %v there, %v at home", ask(&away).Class, ask(&home).Class)
	}
}

// creditsOf is how many identities may be proven at an address at once.
func creditsOf(z *Zone, p *Policy, addr netip.Addr) float64 {
	c := z.newCall(p, &Request{Addr: addr}, 0, simStart)
	defer c.enter().Unlock()
	return c.leaf.promote.TokensAt(simStart) / unit
}

// A key of servers in two networks, or with IPv4 and IPv6, is proven in both from then on
// and grows old there.
func TestClaimsInTwoNetworks(t *testing.T) {
	for name, addrs := range map[string][2]netip.Addr{
		"dual stack":       {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		"two data centres": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")},
	} {
		z, p, now := smallZone(), DefaultPolicy(), simStart
		p.ClientRate, p.ClientBurst = 200, 400
		for i := range 2 * 3700 { // two a second, for more than an hour
			now = now.Add(time.Second / 2)
			r := Request{Addr: addrs[i%2], Claim: "key", Look: 5}
			d := z.Decide(&p, &r, 0, now)
			if !d.Allowed || i >= 2 && d.Class != Proven || i >= 2*3602 && d.Young {
				t.Fatalf("%s: request %d: got %+v", name, i, d)
			}
			z.Confirm(&p, &r, d, 0, now)
		}
	}
}

// A key of which servers in many networks make use is confirmed in a few of them, and does
// not take the credits of everybody; one that has moved gets a place in its new network.
func TestClaimsInManyNetworks(t *testing.T) {
	z, p, now := smallZone(), DefaultPolicy(), simStart
	ask := func(network int) Decision {
		r := Request{Addr: addrOf(256 * network), Claim: "key", Look: 5}
		d := z.Decide(&p, &r, 0, now)
		z.Confirm(&p, &r, d, 0, now)
		return d
	}
	for i := range 150 * 60 {
		now = now.Add(time.Second / 150)
		if d := ask(i % 150); i >= 150 && (d.Class == Proven) != (i%150 < maxHomes) {
			t.Fatalf("request %d: got %+v", i, d)
		}
	}
	if got := z.global.promote.TokensAt(now) / unit; got < globalPromoteBurst-1 {
		t.Errorf("got %v credits of all left, want %d", got, globalPromoteBurst)
	}
	now = now.Add(busyHome)
	if ask(200); ask(200).Class != Proven {
		t.Error("a network is not confirmed, though all others have been left")
	}
}

// The same name from another header is somebody else, and a claim also at another host.
// A user is the same at all hosts: one site may stand for any number of them, and a client
// names which it likes.
func TestNamesAreOfTheirHostAndHeader(t *testing.T) {
	p := DefaultPolicy()
	p.ClientRate, p.ClientBurst = 0.01, 2
	for kind, names := range map[string][][2]string{
		"user":  {{"", ""}, {"", "X-User"}, {"", "X-Api-Key"}},
		"claim": {{"", ""}, {"a.test", "X-User"}, {"b.test", "X-User"}, {"a.test", "X-Api-Key"}, {"X-User", "a.test"}, {"a.testX-User", ""}},
	} {
		z := smallZone()
		ask := func(scope, source string) (*Request, Decision) {
			r := &Request{Addr: addrOf(1), Scope: scope, Source: source}
			if kind == "user" {
				r.User = "k"
			} else {
				r.Claim = "k"
			}
			return r, z.Decide(&p, r, 0, simStart)
		}
		for _, n := range names {
			r, d := ask(n[0], n[1])
			if kind == "claim" {
				if d.Class != Unknown {
					t.Errorf("%s of %q: got %v before it was confirmed", kind, n, d.Class)
				}
				z.Confirm(&p, r, d, 0, simStart)
				_, d = ask(n[0], n[1])
			}
			if d.Class < Proven || d.Remaining != 1 {
				t.Errorf("%s of %q: got %+v, want a budget of its own", kind, n, d)
			}
		}
	}
}

// Nor does a user displace what others have proven by naming hosts.
func TestUsersHaveOneBudgetAtAllHosts(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientRate, p.ClientBurst = 0.01, 5
	passed := 0
	for i := range 1000 {
		r := Request{Addr: addrOf(1), User: "bob", Scope: fmt.Sprintf("h%d.example.com", i), Source: "http.auth.user.id"}
		if z.Decide(&p, &r, 0, simStart).Allowed {
			passed++
		}
	}
	if passed != 5 {
		t.Errorf("got %d of 1000 at once, want 5", passed)
	}
	identities := 0
	z.identities.each(func(identityKey, *identity) { identities++ })
	if identities != 1 {
		t.Errorf("got %d identities, want 1", identities)
	}
}

// Whoever makes up keys where the origin checks none gets no more per second than
// with cookies: the address's budgets bind.
func TestMadeUpClaimsGetTheAddressesBudget(t *testing.T) {
	z, p := newSeededZone(Size{}, [32]byte{}, simStart), DefaultPolicy()
	const keys, seconds, perSecond = 60, 20, 1000
	now, passed := simStart, 0
	ask := func(i int) bool {
		r := Request{Addr: addrOf(1), Claim: fmt.Sprint("key", i%keys), Look: uint64(i)}
		d := z.Decide(&p, &r, 0, now)
		z.Confirm(&p, &r, d, 0, now)
		return d.Allowed
	}
	for i := range 10 * keys { // with a credit each second
		now = now.Add(time.Second / 10)
		ask(i)
	}
	for i := range seconds * perSecond {
		now = now.Add(time.Second / perSecond)
		if ask(i) {
			passed++
		}
	}
	users := 1.3 * keys // an estimate
	proven := (p.Base + users*p.PerClient) * (provenSeconds + seconds)
	unproven := (p.Unproven + unprovenPerUser*users) * (unprovenSeconds + seconds)
	if most := int(proven + unproven); passed > most {
		t.Errorf("got %d of %d, want %d at most", passed, seconds*perSecond, most)
	}
}

// One address has 50 credits for claims, and one more each second.
func TestMadeUpClaimsAreBounded(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	verified := 0
	for i := range 2000 {
		now := simStart.Add(time.Duration(i) * 10 * time.Millisecond)
		r := Request{Addr: addrOf(1), Claim: fmt.Sprint("key", i)}
		z.Confirm(&p, &r, z.Decide(&p, &r, 0, now), 0, now)
		if z.Decide(&p, &r, 0, now).Class == Proven {
			verified++
		}
	}
	if verified > 50+20+1 {
		t.Errorf("got %d keys confirmed in 20 s, want 71 at most", verified)
	}
}

func TestDryRunsAreCountedApart(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	p.ClientBurst, p.DryRun = 1, true
	r := provenRequest(addrOf(1), 1, simStart)
	z.Decide(&p, &r, 0, simStart)
	if d := z.Decide(&p, &r, 0, simStart); d.Allowed {
		t.Fatal("the second one was allowed: want it refused, for the caller to let pass")
	}
	got := fmt.Sprint(z.Counts())
	if want := "[{proven none allowed 1} {proven client would_refuse 1}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
