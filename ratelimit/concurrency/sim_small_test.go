// SPDX-License-Identifier: Apache-2.0

// Origins that can do so little that a probe, or a request more or less, shows.

package concurrency

import (
	"slices"
	"testing"
	"time"
)

// smallPhases follow one another without a pause.
func smallPhases() []phase {
	const long, latency = 6 * time.Second, 80 * time.Millisecond
	return []phase{
		{name: "cold start at 3 x", length: long, load: 3},
		{name: "0.5 x", length: long, load: .5},
		{name: "1 x", length: long, load: 1},
		{name: "2 x", length: long, load: 2},
		{name: "5 x", length: long, load: 5},
		{name: "0.8 x, a quarter of the workers", length: long, load: .8, capacity: .25},
		{name: "0.8 x, all workers", length: long, load: .8},
		{name: "0.8 x, work 3.3 times as long", length: long, load: .8, slower: 1 / .3},
		{name: "0.8 x, work as before", length: long, load: .8},
		{name: "idle", length: long},
		{name: "3 x after idleness", length: long, load: 3},
		{name: "a step", length: time.Millisecond, drift: latency},
		{name: "0.8 x, 80 ms later", length: long, load: .8, drift: latency},
	}
}

// TestSimSmallOrigins plays them with different seeds: in four seconds chance
// alone makes a difference of some per cent.
func TestSimSmallOrigins(t *testing.T) {
	const seeds = 20
	limits := []struct {
		name  string
		guard func(time.Time) limiterUnderTest
	}{{"fixed at 2 x the workers", fixedAt(2 * smallSite.workers)}, {"ours", ours}}
	for _, l := range limits {
		goodput, p99 := make(map[string][]float64), make(map[string][]time.Duration)
		for seed := range uint64(seeds) {
			c := simCase{site: smallSite, phases: smallPhases(), guard: l.guard, seed: simSeed + seed, critical: .2,
				policy: Policy{Queue: LongestQueue, Reserve: true}}
			for _, r := range c.run() {
				if r.possible > 0 {
					goodput[r.phase.name] = append(goodput[r.phase.name], min(1, r.goodput()))
					p99[r.phase.name] = append(p99[r.phase.name], r.p99())
				}
			}
		}
		for _, p := range smallPhases() {
			all := goodput[p.name]
			if all == nil {
				continue
			}
			slices.Sort(all)
			slices.Sort(p99[p.name])
			least, median, slowest := all[0], all[seeds/2], p99[p.name][seeds/2]
			t.Logf("| %s | %s | %.1f %% | %.1f %% | %d ms |", l.name, p.name, 100*median, 100*least, slowest.Milliseconds())
			if l.name == "ours" && (median < .95 || least < .75) {
				t.Errorf("%s: goodput: got %.3f and %.3f at least, want 0.95 and 0.75", p.name, median, least)
			}
		}
	}
}
