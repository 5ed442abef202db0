// SPDX-License-Identifier: Apache-2.0

// Claims: what makes them an identity, and what does not.

package ratelimit

import (
	"fmt"
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
		{"from now on", key, Verified, false},
		{"from anywhere", Request{Addr: addrOf(70000), Claim: "key-1"}, Verified, false},
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

// Whoever makes up keys where the origin checks none gets no further than with
// cookies: one address has 50 credits, and one more each second.
func TestMadeUpClaimsAreBounded(t *testing.T) {
	z, p := smallZone(), DefaultPolicy()
	verified := 0
	for i := range 2000 {
		now := simStart.Add(time.Duration(i) * 10 * time.Millisecond)
		r := Request{Addr: addrOf(1), Claim: fmt.Sprint("key", i)}
		z.Confirm(&p, &r, z.Decide(&p, &r, 0, now), 0, now)
		if z.Decide(&p, &r, 0, now).Class == Verified {
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
