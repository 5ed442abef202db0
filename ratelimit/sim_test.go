// SPDX-License-Identifier: Apache-2.0

// The simulator: the specification's scenarios, played with the real zone, and
// what each mechanism is good for.

package ratelimit

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"
)

// The address that everybody shares, and the one of an attacker alone.
var simShared = netip.MustParseAddr("203.0.113.7")

// simAttack is how long attacks last; the long form is for the documentation.
func simAttack() time.Duration {
	if os.Getenv("RESET_GUARD_LONG") != "" {
		return 300 * time.Second
	}
	return 200 * time.Second
}

// simSeed is another run's; the table's is 1.
func simSeed() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("RESET_GUARD_SEED"), 10, 64); err == nil {
		return n
	}
	return 1
}

// scenario is a row of the specification's table: what it promises to proven
// people and newcomers in percent, and what it lets attackers have per second.
type scenario struct {
	name             string
	proven, newcomer float64 // -1: there are none
	attack           float64
	offered          float64 // by attackers, per second
	play             func(s *sim)
}

// atShared lets the usual people use the shared address.
func atShared(attack func(s *sim)) func(s *sim) {
	return func(s *sim) {
		s.people(simShared, simProven, simNewcomers)
		attack(s)
	}
}

func one(h *host) func() *host { return func() *host { return h } }

// without a cookie: it never keeps what it gets.
func forgetful(s *sim, change func(h *host)) func() *host {
	h := &host{addr: simShared, block: -1, look: 1 << 40}
	return func() *host {
		h.token = Token{}
		change(h)
		return h
	}
}

func rotatingLooks(s *sim) func(h *host) {
	return func(h *host) { h.look = s.random.Uint64() }
}

func scenarios() []scenario {
	return []scenario{
		{"S0 no attack", 100, 100, 0, 0, atShared(func(*sim) {})},
		{"S1 one abuser, no cookie, one look", 100, 100, 9.6, 1000, atShared(func(s *sim) {
			s.flood(1000, forgetful(s, func(*host) {}))
		})},
		{"S1b the same with the commonest look", 100, 92.5, 9.6, 1000, atShared(func(s *sim) {
			s.flood(1000, forgetful(s, func(h *host) { h.look = 0 }))
		})},
		{"S1c one abuser keeping a token", 100, 100, 14.3, 1000, atShared(func(s *sim) {
			s.flood(1000, one(s.newHost(simShared)))
		})},
		{"S2 rotating cookie and look", 100, 87.7, 297, 1000, atShared(func(s *sim) {
			s.flood(1000, forgetful(s, rotatingLooks(s)))
		})},
		{"S2p the same, ports in blocks", 100, 99.8, 151, 1000, blockedPorts},
		{"S3 200 farmed tokens", 100, 100, 179, 1000, farmed(200, 1000, 600*time.Second)},
		{"S3b 1000 farmed tokens", 99.3, 50.1, 416, 2000, farmed(1000, 2000, 1100*time.Second)},
		{"S4 500 newcomers at once, no attack", -1, 95.3, 0, 0, coldStart},
		{"S5 65536 /64s of one /48", 100, 99.9, 293, 2000, rotatingSubnets},
		{"S7 2000 addresses, no cookies", 100, 85.5, 298, 3000, botnet(0)},
		{"S7b the same, rotating tokens", 100, 75, 300, 3000, botnet(8)},
	}
}

// TestSimAlone is what the specification does not ask for: newcomers at addresses
// of their own, for whom nobody vouches, while a botnet floods.
func TestSimAlone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tokens int
		least  float64
	}{{"S7 without cookies", 0, 40}, {"S7b rotating tokens", 8, 3}} {
		s := newSim(simSeed(), DefaultPolicy())
		s.end = s.attack + simAttack()
		s.people(simShared, simProven, 0)
		for i := range simNewcomers {
			s.people(netip.AddrFrom4([4]byte{13, 0, byte(i), 1}), 0, 1)
		}
		s.flood(3000, bots(s, tc.tokens))
		s.run(s.end)
		t.Logf("%-25s %s", tc.name, s)
		if s.score[provenPeople].percent() < 99 || s.score[newcomers].percent() < tc.least {
			t.Errorf("%s: got %s", tc.name, s)
		}
	}
}

// blockedPorts is a carrier that gives out blocks; the abuser has eight.
func blockedPorts(s *sim) {
	s.useBlocks()
	mine := s.blocks[:8]
	s.blocks = s.blocks[8:]
	s.people(simShared, simProven, simNewcomers)
	look := rotatingLooks(s)
	s.flood(1000, forgetful(s, func(h *host) {
		look(h)
		h.block = mine[s.random.IntN(len(mine))]
	}))
}

// farmed collects tokens first and uses all of them in turn.
func farmed(tokens, perSecond int, over time.Duration) func(s *sim) {
	return func(s *sim) {
		s.attack += over
		s.end += over
		hosts, i := s.farm(simShared, tokens, over), 0
		s.people(simShared, simProven, simNewcomers)
		s.flood(perSecond, func() *host {
			i++
			return hosts[i%len(hosts)]
		})
	}
}

// coldStart has nobody proven: 500 people come within the first minute.
func coldStart(s *sim) {
	for range 500 {
		at := s.attack + time.Duration(s.random.Int64N(int64(time.Minute)))
		s.add(at, &reader{host: s.newHost(simShared), in: newcomers})
	}
}

func rotatingSubnets(s *sim) {
	s.people(simShared, simProven, simNewcomers)
	raw := netip.MustParseAddr("2001:db8:77::1").As16()
	s.flood(2000, forgetful(s, func(h *host) {
		n := s.random.IntN(1 << 16)
		raw[6], raw[7] = byte(n>>8), byte(n)
		h.addr, h.look = netip.AddrFrom16(raw), s.random.Uint64()
	}))
}

// botnet is 2000 addresses. Each keeps so many tokens and uses them in turn.
func botnet(tokens int) func(s *sim) {
	return func(s *sim) {
		s.people(simShared, simProven, simNewcomers)
		s.flood(3000, bots(s, tokens))
	}
}

func bots(s *sim, tokens int) func() *host {
	hosts := make([]*host, 2000*max(1, tokens))
	for i := range hosts {
		bot := i % 2000
		hosts[i] = s.newHost(netip.AddrFrom4([4]byte{100, byte(bot >> 8), byte(bot), 9}))
	}
	i := 0
	return func() *host {
		i++
		h := hosts[i%len(hosts)]
		if tokens == 0 {
			h.token = Token{}
		}
		return h
	}
}

// simulate plays a scenario without the mechanisms given.
func simulate(sc scenario, seed uint64, off mechanism) *sim {
	s := newSim(seed, DefaultPolicy())
	s.zone.off = off
	s.end = s.attack + simAttack()
	sc.play(s)
	s.run(s.end)
	return s
}

// attackRate is what the attackers got, per second.
func (s *sim) attackRate() float64 {
	return float64(s.score[attackers].passed) / (s.end - s.attack).Seconds()
}

func (s *sim) String() string {
	return fmt.Sprintf("%5.1f / %5.1f / %5.1f", s.score[provenPeople].percent(),
		s.score[newcomers].percent(), s.attackRate())
}

// tolerance is how far a row may fall behind the specification, in percentage
// points: of people's requests, and of what attackers offer.
const tolerance = 3

func TestSim(t *testing.T) {
	t.Logf("%-40s %23s   specification", "proven % / newcomers % / attackers per s", "measured")
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			s := simulate(sc, simSeed(), 0)
			t.Logf("%-40s %s   %5.1f / %5.1f / %5.1f", sc.name, s, sc.proven, sc.newcomer, sc.attack)
			if testing.Verbose() && os.Getenv("RESET_GUARD_LEVELS") != "" {
				s.logLevels(t)
			}
			s.check(t, sc)
		})
	}
}

func (s *sim) check(t *testing.T, sc scenario) {
	t.Helper()
	for _, c := range []struct {
		who  string
		got  float64
		want float64
	}{
		{"proven people", s.score[provenPeople].percent(), sc.proven - tolerance},
		{"newcomers", s.score[newcomers].percent(), sc.newcomer - tolerance},
		{"attackers' refusals", -s.attackRate(), -sc.attack - tolerance*sc.offered/100},
	} {
		if c.got < c.want {
			t.Errorf("%s: got %.1f, want at least %.1f", c.who, c.got, c.want)
		}
	}
}

func (s *sim) logLevels(t *testing.T) {
	for g := range groups {
		for class := range classes {
			for level := range levels {
				if n := s.refused[g][class][level]; n > 0 {
					t.Logf("  group %d: refused %s at %s: %d", g, class, level, n)
				}
			}
		}
	}
}
