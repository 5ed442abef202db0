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
