// SPDX-License-Identifier: Apache-2.0

// Tokens in use: what becomes of them elsewhere, and over time.

package ratelimit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// While others use up the credits of all, a client that has been proven for hours asks from
// another network, and is still proven when it is back.
func TestRoamingCostsNobodyItsProof(t *testing.T) {
	for name, drained := range map[string]bool{"calm": false, "while others use up the credits": true} {
		z, p, now := NewZone(Size{}, simStart), DefaultPolicy(), simStart.Add(time.Minute)
		if drained { // 100 addresses in 100 networks, each with one made-up key
			for i := range 100 {
				r := Request{Addr: addrOf(256 * (100 + i)), Claim: fmt.Sprint(i)}
				z.Confirm(&p, &r, z.Decide(&p, &r, 0, now), 0, now)
			}
		}
		home, away := addrOf(256), addrOf(512)
		at, r := home, provenRequest(home, 7, now)
		ask := func(from netip.Addr, after time.Duration) Decision {
			now = now.Add(after)
			r.Addr, r.Token.Home = from, from == at
			d := z.Decide(&p, &r, 0, now)
			if to, ok := z.Issue(&p, &r, d, 0, now); ok {
				r.Token, at = to, from
			}
			return d
		}
		ask(home, 0)
		for range 3 {
			if ask(away, time.Millisecond); r.Token.Stage != Trusted {
				t.Errorf("%s: elsewhere: got stage %d", name, r.Token.Stage)
			}
		}
		if moved := at == away; moved == drained {
			t.Errorf("%s: moved: %v", name, moved)
		}
		ask(home, time.Minute)
		if d := ask(home, time.Second); d.Class != Proven || d.Young {
			t.Errorf("%s: back at home: got %+v", name, d)
		}
	}
}

// A cookie that is used all the time is renewed before it expires, however short it lives,
// and also while its owner waits for a credit.
func TestCookiesInUseAreRenewed(t *testing.T) {
	for _, lifetime := range []time.Duration{MinCookieLifetime, time.Hour, 12 * time.Hour, 24 * time.Hour} {
		for name, full := range map[string]bool{"proven": false, "waits for a credit": true} {
			z, p, now := smallZone(), DefaultPolicy(), simStart
			p.CookieLifetime = lifetime
			signer, err := NewSigner(KeyRing{}.Rotate([SecretBytes]byte{1}, now), lifetime)
			if err != nil {
				t.Fatal(err)
			}
			at, cookie, first := Place{Addr: addrOf(1), Site: "a.test"}, "", uint64(0)
			for now.Before(simStart.Add(3 * lifetime)) {
				now = now.Add(lifetime / 20)
				r := Request{Addr: at.Addr, Look: 1}
				if cookie != "" {
					r.Token, err = signer.Verify(cookie, at, now)
				}
				if err != nil || r.Token.ID != first {
					t.Fatalf("%v, %s: after %v: got %+v, %v", lifetime, name, now.Sub(simStart), r.Token, err)
				}
				if full {
					z.global.promote.AllowN(now, int(z.global.promote.TokensAt(now)))
				}
				d := z.Decide(&p, &r, 0, now)
				if !Due(&p, &r, &d, now) {
					continue
				}
				if to, ok := z.Issue(&p, &r, d, 0, now); ok {
					cookie, first = signer.Mint(to, at), to.ID
				}
			}
			tok, _ := signer.Verify(cookie, at, now)
			if proven := tok.Stage == Trusted; proven == full {
				t.Errorf("%v, %s: got stage %d", lifetime, name, tok.Stage)
			}
			if !full && !tok.tenured(now) && 3*lifetime > tenure+time.Minute+lifetime/5 {
				t.Errorf("%v: known since %v only", lifetime, tok.First)
			}
		}
	}
}
