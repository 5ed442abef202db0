// SPDX-License-Identifier: Apache-2.0

// The table of docs/overload.md: what different limiters and orders of the queue
// achieve in the simulator.

package concurrency

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// contender is a guard as the table has it.
type contender struct {
	name   string
	guard  func(time.Time) limiterUnderTest
	policy Policy
	bubble bool
}

func contenders(s site) []contender {
	return []contender{
		{name: "none", guard: none},
		{name: "fixed", guard: fixedAt(3 * s.workers / 2), policy: simPolicy},
		{name: "failsafe-go", guard: failsafeTuned, policy: simPolicy, bubble: true},
		{name: "ours, auto", guard: ours, policy: simPolicy},
		{name: "ours, enforce", guard: ours, policy: Policy{Mode: Enforce, Queue: LongestQueue}},
	}
}

// The short form is one overloaded case; the long one is the table of the docs.
func TestSimTable(t *testing.T) {
	sites, cases := []site{fastSite}, []scenario{{name: "3x", phases: []phase{{length: 10 * time.Second, load: 3}}}}
	if isLong() {
		sites, cases = []site{fastSite, slowSite}, scenarios()
	}
	for _, s := range sites {
		for _, sc := range cases {
			row, without := fmt.Sprintf("| %s | %s", s.name, sc.name), 0.0
			for _, c := range contenders(s) {
				goodput, p99 := worst(c.play(t, simCase{site: s, phases: sc.phases, seed: simSeed}))
				row += fmt.Sprintf(" | %.1f / %d", 100*goodput, p99.Milliseconds())
				switch c.name {
				case "none":
					without = goodput
				case "ours, auto", "ours, enforce":
					if goodput < without-0.02 { // at 1 x every refusal is one too many
						t.Errorf("%s, %s: goodput of %s: got %.3f, want about %.3f at least, as without a limit", s.name, sc.name, c.name, goodput, without)
					}
				}
			}
			t.Log(row, "|")
		}
	}
}

// play runs a case with the contender, in a bubble if its limiter reads the clock.
func (c contender) play(t *testing.T, sc simCase) (results []*tallies) {
	sc.guard, sc.policy = c.guard, c.policy
	if !c.bubble {
		return sc.run()
	}
	synctest.Test(t, func(*testing.T) {
		sc.sleep = time.Sleep
		results = sc.run()
	})
	return results
}

// worst is the least goodput and the highest p99 of all phases, each by itself.
func worst(results []*tallies) (goodput float64, p99 time.Duration) {
	goodput = 1
	for _, r := range results {
		if r.phase.load > 0 {
			goodput, p99 = min(goodput, r.goodput()), max(p99, r.p99())
		}
	}
	return goodput, p99
}

func TestSimQueueOrders(t *testing.T) {
	sites, long := []site{fastSite}, 10*time.Second
	if isLong() {
		sites, long = []site{fastSite, slowSite}, time.Minute
	}
	for _, s := range sites {
		for o, name := range []string{"by load", "oldest first", "newest first"} {
			c := simCase{site: s, guard: ours, policy: simPolicy, order: order(o), seed: simSeed}
			c.phases = []phase{{length: long, load: 0.7, burst: bursty}}
			bursts := c.run()[0]
			c.phases = []phase{{length: long / 3, load: 2}}
			over := c.run()[0]
			if name == "by load" && bursts.refused > 0 {
				t.Errorf("%s: got %d of %d requests of bursts refused, want none", s.name, bursts.refused, bursts.offered)
			}
			t.Logf("| %s | %s | %d of %d | %.1f %% | %d ms | %d ms |", s.name, name, bursts.refused, bursts.offered,
				100*over.goodput(), over.p50().Milliseconds(), over.p99().Milliseconds())
		}
	}
}

func (t *tallies) p50() time.Duration {
	t.p99() // sorts
	return t.answered[len(t.answered)/2]
}
