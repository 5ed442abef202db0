// SPDX-License-Identifier: Apache-2.0

// A simulation of origins and their failures, that the detector is held against
// the figures of docs/ejection.md with. Seeds are fixed: a test that passes once
// always passes.

package health

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
)

// longSim makes the simulations ten times as long. The tables of
// docs/ejection.md were made with it.
const longSim = "RESET_GUARD_LONG"

// simScale multiplies the runs of a simulation.
func simScale() int {
	if os.Getenv(longSim) != "" {
		return 10
	}
	return 1
}

// failureRate is how likely a request to a host fails at a time.
type failureRate func(host int, t time.Duration) float64

// simPool is a number of hosts that get requests at random times.
type simPool struct {
	pool   *Pool
	hosts  []*Member
	rps    float64 // each
	random *rand.Rand
	t      time.Duration
}

func newSimPool(n int, rps float64, seed uint64) *simPool {
	s := &simPool{pool: NewPool(time.Unix(0, 0)), rps: rps, random: rand.New(rand.NewPCG(seed, 1)), t: time.Second}
	for i := range n {
		s.hosts = append(s.hosts, newMember(fmt.Sprint(i), 0))
	}
	return s
}

// next moves time on to the next request and says whose it is.
func (s *simPool) next() int {
	mean := float64(time.Second) / (s.rps * float64(len(s.hosts)))
	s.t += time.Duration(s.random.ExpFloat64() * mean)
	s.pool.tick(s.t)
	return s.random.IntN(len(s.hosts))
}

// send lets host i answer or fail and tells whether the detector accuses it. An
// accusation starts the detector anew, as an ejection would.
func (s *simPool) send(i int, rate failureRate) bool {
	failed := int64(0)
	if s.random.Float64() < rate(i, s.t) {
		failed = unit
	}
	d := &s.hosts[i].faults
	if d.observe(failed, &s.pool.faults, s.t) != outlier {
		return false
	}
	d.score = 0
	d.markChange(&s.pool.faults)
	return true
}

// The time before the fault begins, and how long it is waited for.
const (
	simOnset  = 20 * time.Second
	simGiveUp = 60 * time.Second
)

// delays lets host 0 go bad in each run, and gives the number of requests to it
// until it was accused; for the runs in which it never was, misses.
func delays(n, runs int, rps float64, rate failureRate) (found []int, misses int) {
	for run := range runs {
		s, sent := newSimPool(n, rps, uint64(run)), 0
		for s.t < simOnset+simGiveUp {
			i := s.next()
			bad := i == 0 && s.t >= simOnset
			if bad {
				sent++
			}
			if s.send(i, rate) && bad {
				found = append(found, sent)
				sent = -1
				break
			}
		}
		if sent >= 0 {
			misses++
		}
	}
	slices.Sort(found)
	return found, misses
}

// quantile of sorted numbers; -1 if there are none.
func quantile(sorted []int, q float64) int {
	if len(sorted) == 0 {
		return -1
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// accusations counts how often hosts other than the guilty are accused, per
// million requests.
func accusations(n int, requests int, seed uint64, rate failureRate) float64 {
	s, count := newSimPool(n, 50, seed), 0
	for range requests {
		if s.send(s.next(), rate) {
			count++
		}
	}
	return float64(count) * 1e6 / float64(requests)
}

// oneBad is a background rate for all, and another one for host 0 from the onset.
func oneBad(background, bad float64) failureRate {
	return func(i int, t time.Duration) float64 {
		if i == 0 && t >= simOnset {
			return bad
		}
		return background
	}
}

func allAt(p float64) failureRate { return func(int, time.Duration) float64 { return p } }

// flapping is a host 0 that fails for so long at the beginning of each period.
func flapping(bad, period time.Duration) failureRate {
	return func(i int, t time.Duration) float64 {
		if i == 0 && t >= simOnset && (t-simOnset)%period < bad {
			return 1
		}
		return 0
	}
}

// commonOnsets lets all fail alike for every other minute.
func commonOnsets(p float64) failureRate {
	return func(_ int, t time.Duration) float64 {
		if int(t/time.Minute)%2 == 1 {
			return p
		}
		return 0
	}
}

// TestSimDelay holds how soon a bad origin is found against HEALTH.md 1.2. Of two
// hundred runs the median is good to a tenth and the 95th percentile to a fifth;
// the other simulation's are no better, and it knows nothing of dead times for
// successes. A flapping origin is taken here from the start of its first outage.
func TestSimDelay(t *testing.T) {
	runs := 200 * simScale()
	for _, row := range []struct {
		name        string
		rate        failureRate
		hosts       int
		median, p95 int // HEALTH.md's
	}{
		{"hard down", oneBad(0, 1), 10, 7, 9},
		{"30 %", oneBad(0, .3), 10, 21, 34},
		{"10 %", oneBad(0, .1), 10, 67, 139},
		{"5 %", oneBad(0, .05), 10, 157, 396},
		{"5 % on 1 %", oneBad(.01, .05), 10, 243, 539},
		{"flap .2s/2s", flapping(200*time.Millisecond, 2*time.Second), 10, 101, 234},
		{"hard down", oneBad(0, 1), 3, 7, 9},
		{"30 %", oneBad(0, .3), 3, 21, 35},
		{"10 %", oneBad(0, .1), 3, 65, 128},
		{"5 %", oneBad(0, .05), 3, 174, 340},
	} {
		t.Run(fmt.Sprintf("%s of %d", row.name, row.hosts), func(t *testing.T) {
			found, misses := delays(row.hosts, runs, 50, row.rate)
			median, p95 := quantile(found, .5), quantile(found, .95)
			t.Logf("| %d | %s | %d/%d | %d/%d | %d of %d |", row.hosts, row.name, row.median, row.p95, median, p95, misses, runs)
			if misses > 0 || float64(median) > 1.15*float64(row.median) || float64(p95) > 1.25*float64(row.p95) {
				t.Errorf("got %d/%d and %d misses, want about %d/%d and none", median, p95, misses, row.median, row.p95)
			}
		})
	}
}

// TestSimFalse counts accusations where nobody is worse than the others. Three
// million requests see few of them, so that the limits leave room for chance:
// they are what a Poisson count exceeds once in a thousand times, or less.
func TestSimFalse(t *testing.T) {
	for _, row := range []struct {
		name  string
		rate  failureRate
		hosts int
		want  float64 // HEALTH.md's; -1 if it does not say
		limit float64
	}{
		{"noise .1 %", allAt(.001), 10, 0, 0},
		{"noise 1 %", allAt(.01), 10, 0, 1},
		{"common 5 %", allAt(.05), 10, .3, 2},
		{"common 30 %", allAt(.3), 10, 1, 3},
		{"noise .1 %", allAt(.001), 3, 0, 0},
		{"noise 1 %", allAt(.01), 3, 1.1, 3},
		{"common 5 %", allAt(.05), 3, 1.1, 4},
		{"common 30 %", allAt(.3), 3, 1.1, 4},
		{"5 % every other minute", commonOnsets(.05), 10, -1, 9},
		{"30 % every other minute", commonOnsets(.3), 10, -1, 10},
		{"100 % every other minute", commonOnsets(1), 10, -1, 2},
		{"30 % every other minute", commonOnsets(.3), 3, -1, 16},
		{"100 % every other minute", commonOnsets(1), 3, -1, 4},
	} {
		t.Run(fmt.Sprintf("%s of %d", row.name, row.hosts), func(t *testing.T) {
			got := accusations(row.hosts, 3_000_000*simScale(), 7, row.rate)
			t.Logf("| %d | %s | %v | %.2f |", row.hosts, row.name, row.want, got)
			if got > row.limit {
				t.Errorf("got %.2f false accusations per million requests, want at most %v", got, row.limit)
			}
		})
	}
}

// TestSimBurst lets a random host reset six requests within two milliseconds,
// every ten seconds: a restart, or a middlebox that lost its table.
func TestSimBurst(t *testing.T) {
	const requests = 3_000_000
	s, count, next := newSimPool(10, 50, 11), 0, simOnset
	for range requests * simScale() {
		i := s.next()
		if s.t >= next {
			next = s.t + 10*time.Second
			for range 6 {
				s.t += 400 * time.Microsecond
				if s.send(i, allAt(1)) {
					count++
				}
			}
		}
		if s.send(i, allAt(.001)) {
			count++
		}
	}
	t.Logf("| 10 | 6-reset burst | 0 | %.2f |", float64(count)/float64(simScale()*requests/1e6))
	if count > 0 {
		t.Errorf("got %d accusations for bursts of resets, want none", count)
	}
}

// TestSimOnset lets several hosts go bad at the same time. HEALTH.md 1.2: all the
// bad ones are found within ten seconds and none of the others; where all are
// bad, that is nobody's fault.
func TestSimOnset(t *testing.T) {
	for _, row := range []struct {
		bad, hosts      int
		rate            float64
		badMin, goodMax float64 // shares that are accused
		badMax          float64
	}{
		{1, 10, 1, 1, 0, 1},
		{2, 10, 1, 1, 0, 1},
		{5, 10, 1, 1, 0, 1},
		{2, 3, 1, .98, 0, 1},
		{10, 10, 1, 0, 0, .02},
		{10, 10, .3, 0, 0, .08},
		{10, 10, .05, 0, 0, .08},
	} {
		t.Run(fmt.Sprintf("%d of %d at %v", row.bad, row.hosts, row.rate), func(t *testing.T) {
			bad, good, delay := onset(row.bad, row.hosts, 50*simScale(), row.rate)
			t.Logf("| %d/%d | %v | %.1f %% | %.1f %% | %d |", row.bad, row.hosts, row.rate, 100*bad, 100*good, delay)
			if bad < row.badMin || bad > row.badMax || good > row.goodMax {
				t.Errorf("accused %.3f of the bad and %.3f of the good, want %v to %v and at most %v", bad, good, row.badMin, row.badMax, row.goodMax)
			}
		})
	}
}

// onset gives the shares of bad and of good hosts that are accused within ten
// seconds, and the median number of requests to a bad one until then.
func onset(bad, hosts, runs int, p float64) (ofBad, ofGood float64, delay int) {
	rate := func(i int, t time.Duration) float64 {
		if i < bad && t >= simOnset {
			return p
		}
		return 0
	}
	var delays []int
	good := 0
	for run := range runs {
		s, accused, sent := newSimPool(hosts, 50, uint64(run)), make([]bool, hosts), make([]int, hosts)
		for s.t < simOnset+10*time.Second {
			i := s.next()
			if s.t >= simOnset {
				sent[i]++
			}
			if !s.send(i, rate) || accused[i] {
				continue
			}
			if accused[i] = true; i < bad {
				delays = append(delays, sent[i])
			} else {
				good++
			}
		}
	}
	slices.Sort(delays)
	return float64(len(delays)) / float64(bad*runs), float64(good) / float64(max(1, hosts-bad)*runs), quantile(delays, .5)
}

// TestSimBusy lets origins take 5000 requests a second each. To skip only the
// failures after a failure would hide one in four of them at 5 %, and more the
// busier the origin is.
func TestSimBusy(t *testing.T) {
	found, misses := delays(3, 5*simScale(), 5000, oneBad(0, .05))
	t.Logf("| 3 | 5 %% at 5000 rps | %d/%d | %d missed |", quantile(found, .5), quantile(found, .95), misses)
	if got := quantile(found, .95); misses > 0 || got > 5000 {
		t.Errorf("got %d requests and %d misses, want at most a second's 5000, and none", got, misses)
	}
}
