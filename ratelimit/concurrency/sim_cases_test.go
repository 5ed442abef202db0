// SPDX-License-Identifier: Apache-2.0

// What the limiter must achieve, in the simulator. RESET_GUARD_LONG plays
// longer phases and prints what others achieve as well: ./xcaddy.sh simulate

package concurrency

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

func isLong() bool { return os.Getenv("RESET_GUARD_LONG") != "" }

// scenario is a list of phases and what is asked of them.
type scenario struct {
	name   string
	phases []phase
	worst  time.Duration // added to the unloaded time, for the judgement
}

func stretched(d time.Duration) time.Duration {
	if isLong() {
		return 3 * d
	}
	return d
}

func scenarios() []scenario {
	d := stretched(8 * time.Second)
	var list []scenario
	for _, load := range []float64{0.5, 1, 2, 3, 5} {
		list = append(list, scenario{name: fmt.Sprintf("cold start at %g x", load),
			phases: []phase{{name: "all", length: d, load: load}}})
	}
	return append(list,
		scenario{name: "0.7 x, capacity to 30 %", phases: []phase{
			{name: "before", length: d, load: 0.7},
			{name: "30 %", length: d, load: 0.7, capacity: 0.3, settling: 2500 * time.Millisecond},
			{name: "back", length: d, load: 0.7}}},
		scenario{name: "2 x, capacity to 30 %", phases: []phase{
			{name: "before", length: d, load: 2},
			{name: "30 %", length: d, load: 2, capacity: 0.3},
			{name: "back", length: d, load: 2}}},
		scenario{name: "flash crowd after idleness", phases: []phase{
			{name: "before", length: d, load: 0.3},
			{name: "idle", length: time.Minute},
			{name: "crowd 5 x", length: d, load: 5},
			{name: "after", length: d, load: 0.7}}},
		scenario{name: "0.7 x, drift", worst: 80 * time.Millisecond, phases: []phase{
			{name: "before", length: d, load: 0.7},
			{name: "drifting +80 ms", length: 3 * d, load: 0.7, drift: 80 * time.Millisecond},
			{name: "stays", length: d, load: 0.7, drift: 80 * time.Millisecond}}},
		scenario{name: "2 x, drift", worst: 80 * time.Millisecond, phases: []phase{
			{name: "before", length: d, load: 2},
			{name: "drifting +80 ms", length: 3 * d, load: 2, drift: 80 * time.Millisecond},
			{name: "stays", length: d, load: 2, drift: 80 * time.Millisecond}}},
	)
}

// unloaded is the 99th percentile of an origin's own time.
func (s site) unloaded() time.Duration {
	if s.workers == slowSite.workers {
		return s.mean
	}
	return 56 * time.Millisecond // 10 ms + 4.6 x 10 ms
}

var simPolicy = Policy{Mode: Auto, Queue: LongestQueue}

func TestSim(t *testing.T) {
	for _, s := range []site{fastSite, slowSite} {
		for _, mode := range []Mode{Auto, Enforce} {
			for _, sc := range scenarios() {
				t.Run(fmt.Sprintf("%s/mode %d/%s", s.name, mode, sc.name), func(t *testing.T) {
					t.Parallel()
					c := simCase{site: s, phases: sc.phases, guard: ours, seed: simSeed,
						policy: Policy{Mode: mode, Queue: LongestQueue}}
					judge(t, c.run(), 4*(s.unloaded()+sc.worst))
				})
			}
		}
	}
}

func judge(t *testing.T, results []*tallies, slowest time.Duration) {
	t.Helper()
	for _, r := range results {
		if r.phase.load == 0 {
			continue
		}
		t.Logf("%-16s goodput %5.1f %%, p99 %4d ms, refused %d", r.phase.name,
			100*r.goodput(), r.p99().Milliseconds(), r.refused)
		if got, want := r.goodput(), 0.97; got < want {
			t.Errorf("%s: goodput: got %.3f, want %.2f at least", r.phase.name, got, want)
		}
		if got := r.p99(); got > slowest {
			t.Errorf("%s: p99: got %v, want at most %v", r.phase.name, got, slowest)
		}
	}
}

// bursty doubles the load for a sixth of a second in two seconds, and triples it for a
// twenty-fifth in three. What it adds is within the queue's tenth of a second.
func bursty(t time.Duration) float64 {
	switch {
	case t%(2*time.Second) < 160*time.Millisecond:
		return 2
	case (t+time.Second)%(3*time.Second) < 40*time.Millisecond:
		return 3
	}
	return 0.89
}

func TestSimRefusesNothingWithoutOverload(t *testing.T) {
	length := time.Minute
	if isLong() {
		length = 10 * time.Minute
	}
	for _, s := range []site{fastSite, slowSite, mixedSite} {
		for _, mode := range []Mode{Auto, Enforce} {
			if s.spread && mode == Enforce {
				continue // refuses a few per thousand at first; see docs/overload.md
			}
			t.Run(fmt.Sprintf("%s/mode %d", s.name, mode), func(t *testing.T) {
				t.Parallel()
				c := simCase{site: s, guard: ours, seed: simSeed + 1, policy: Policy{Mode: mode, Queue: LongestQueue},
					phases: []phase{{name: "bursts", length: length, load: 0.7, burst: bursty}}}
				r := c.run()[0]
				t.Logf("%d offered, %d refused, p99 %v", r.offered, r.refused, r.p99())
				if r.refused > 0 {
					t.Errorf("refused %d of %d", r.refused, r.offered)
				}
			})
		}
	}
}

// With times that differ by a factor of a hundred the estimate is less exact.
func TestSimMixedRequests(t *testing.T) {
	for _, load := range []float64{2, 5} {
		c := simCase{site: mixedSite, guard: ours, seed: simSeed, policy: simPolicy,
			phases: []phase{{length: stretched(10 * time.Second), load: load}}}
		r := c.run()[0]
		t.Logf("%g x: goodput %.1f %%, p99 %v", load, 100*r.goodput(), r.p99())
		if got := r.goodput(); got < 0.75 {
			t.Errorf("%g x: goodput: got %.3f, want 0.75 at least", load, got)
		}
	}
}

func TestSimCriticalRequestsAreAnswered(t *testing.T) {
	for _, s := range []site{fastSite, slowSite} {
		for _, mode := range []Mode{Auto, Enforce} {
			t.Run(fmt.Sprintf("%s/mode %d", s.name, mode), func(t *testing.T) {
				t.Parallel()
				c := simCase{site: s, guard: ours, seed: simSeed + 2, critical: 0.2,
					policy: Policy{Mode: mode, Queue: LongestQueue, Reserve: true},
					phases: []phase{{name: "3 x", length: stretched(10 * time.Second), load: 3}}}
				r := c.run()[0]
				share := float64(r.keptUp) / float64(r.critical)
				t.Logf("critical answered %.2f %%, goodput %.1f %%", 100*share, 100*r.goodput())
				if share < 0.995 {
					t.Errorf("critical requests answered: got %.4f, want 0.995", share)
				}
			})
		}
	}
}

// simSeed is fixed in ordinary runs, so that they all see the same.
var simSeed = func() uint64 {
	seed, err := strconv.ParseUint(os.Getenv("RESET_GUARD_SEED"), 10, 64)
	if err != nil {
		return 1
	}
	return seed
}()
