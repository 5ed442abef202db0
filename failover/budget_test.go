// SPDX-License-Identifier: Apache-2.0

// The retry budget, step by step and as properties.

package failover

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	budgetBegin = time.Unix(1_700_000_000, 0)
	underLoad   = Load{Pressure: .4}
)

// budgetRig is a budget with a clock.
type budgetRig struct {
	*Budget
	policy BudgetPolicy
	clock  time.Duration
}

func newBudgetRig() *budgetRig {
	return &budgetRig{Budget: NewBudget(budgetBegin), policy: DefaultBudgetPolicy()}
}

func (r *budgetRig) now() time.Time { return budgetBegin.Add(r.clock) }

func (r *budgetRig) requests(n int) {
	for range n {
		r.Request(r.now())
	}
}

// takes asks for n retries, each for another client, and counts what is given.
func (r *budgetRig) takes(n int, load Load) (given int) {
	for i := range n {
		if r.Take(r.policy, fmt.Sprint("client", i), false, load, r.now()) {
			given++
		}
	}
	return given
}

func TestBudgetByLoad(t *testing.T) {
	for _, c := range []struct {
		name string
		load Load
		want int // of 100 retries for 200 requests
	}{
		{"no pressure", Load{}, 100},
		{"a little", Load{Pressure: .29}, 100},
		{"pressure", Load{Pressure: .3}, 43},
		{"as much as may be", Load{Pressure: .5}, 43},
		{"too much", Load{Pressure: .51}, 0},
		{"far too much", Load{Pressure: 1}, 0},
		{"pool fault", Load{PoolFault: true}, 43},
		{"pool fault and too much pressure", Load{Pressure: .8, PoolFault: true}, 0},
		{"pressure that is no number", Load{Pressure: math.NaN()}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newBudgetRig()
			r.requests(200)
			if got := r.takes(100, c.load); got != c.want {
				t.Errorf("got %d retries of 100, want %d", got, c.want)
			}
		})
	}
}

func TestBudgetSlides(t *testing.T) {
	r := newBudgetRig()
	for _, step := range []struct {
		name     string
		at       time.Duration
		requests int
		want     int // of ten retries
	}{
		{"a quiet site", 0, 0, 3},
		{"used up", 9 * time.Second, 0, 0},
		{"more requests", 9 * time.Second, 20, 4},
		{"ten seconds later", 10 * time.Second, 0, 3},
		{"clock stepped back", 5 * time.Second, 0, 0},
		{"the requests have gone too", 19 * time.Second, 0, 0},
		{"all have gone", 20 * time.Second, 0, 3},
		{"after an hour", time.Hour, 0, 3},
	} {
		r.clock = step.at
		r.requests(step.requests)
		if got := r.takes(10, underLoad); got != step.want {
			t.Fatalf("%s: got %d retries, want %d", step.name, got, step.want)
		}
	}
}

func TestBudgetOneClientGetsHalf(t *testing.T) {
	r := newBudgetRig()
	r.requests(185) // 40 retries
	given := 0
	for range 100 {
		if r.Take(r.policy, "abuser", false, underLoad, r.now()) {
			given++
		}
	}
	if given != 20 {
		t.Errorf("one client got %d retries of 40, want 20", given)
	}
	if got := r.takes(100, underLoad); got != 20 {
		t.Errorf("the others got %d retries, want the other 20", got)
	}
}

func TestBudgetClientIsForgivenGradually(t *testing.T) {
	r := newBudgetRig()
	r.requests(185)
	for range 20 {
		r.Take(r.policy, "abuser", false, underLoad, r.now())
	}
	r.clock = 15 * time.Second // half of the last span's retries are out of sight
	r.requests(185)
	given := 0
	for range 100 {
		if r.Take(r.policy, "abuser", false, underLoad, r.now()) {
			given++
		}
	}
	if given != 10 {
		t.Errorf("got %d retries, want the 10 that are left of 20", given)
	}
}

func TestBudgetFreeRetries(t *testing.T) {
	r := newBudgetRig()
	for range 100 {
		if !r.Take(r.policy, "client", true, Load{Pressure: 1, PoolFault: true}, r.now()) {
			t.Fatal("a retry of what no origin got a byte of was refused")
		}
	}
	if got := r.takes(10, underLoad); got != 3 {
		t.Errorf("after free retries: got %d, want all of 3", got)
	}
}

func TestBudgetOfNone(t *testing.T) {
	r := newBudgetRig()
	r.policy = BudgetPolicy{}
	r.requests(1000)
	if got := r.takes(10, underLoad); got != 0 {
		t.Errorf("got %d retries under pressure, want none", got)
	}
	if got := r.takes(10, Load{}); got != 10 {
		t.Errorf("got %d retries without pressure, want 10", got)
	}
}

func TestBudgetValidate(t *testing.T) {
	for _, c := range []struct {
		policy BudgetPolicy
		want   string
	}{
		{DefaultBudgetPolicy(), ""}, {BudgetPolicy{}, ""}, {BudgetPolicy{1, MaxBudgetCount}, ""},
		{BudgetPolicy{-.1, 0}, "budget share is -10%"}, {BudgetPolicy{1.5, 0}, "budget share is 150%"},
		{BudgetPolicy{math.NaN(), 0}, "budget share is NaN%"},
		{BudgetPolicy{0, -1}, "budget count is -1"}, {BudgetPolicy{0, MaxBudgetCount + 1}, "budget count is 1000001"},
	} {
		err := c.policy.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want an error with %q", c.policy, err, c.want)
		}
	}
}

// TestBudgetNeverExceeds holds any sequence against a list of all that was given.
func TestBudgetNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newBudgetRig()
		r.policy = BudgetPolicy{rapid.Float64Range(0, 1).Draw(t, "share"), rapid.IntRange(0, 5).Draw(t, "count")}
		var requests, given []time.Duration
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			r.clock += time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "wait"))
			if rapid.Bool().Draw(t, "request") {
				r.requests(1)
				requests = append(requests, r.clock)
				continue
			}
			client := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "client")
			if !r.Take(r.policy, client, false, underLoad, r.now()) {
				continue
			}
			given = append(given, r.clock)
			inSight := func(all []time.Duration) (n int) {
				for _, at := range all {
					if at/budgetBucket > r.clock/budgetBucket-budgetBuckets {
						n++
					}
				}
				return n
			}
			limit := r.policy.Share*float64(inSight(requests)) + float64(r.policy.Count)
			if n := inSight(given); float64(n) > limit {
				t.Fatalf("at %s: gave %d retries, the limit is %v", r.clock, n, limit)
			}
		}
	})
}

func TestBudgetInParallel(t *testing.T) {
	r := newBudgetRig()
	r.requests(485) // 100 retries
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := 0
	for g := range 4 {
		wg.Go(func() {
			given := 0
			for i := range 500 {
				if r.Take(r.policy, fmt.Sprint(g, i), false, underLoad, r.now()) {
					given++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total += given
		})
	}
	if wg.Wait(); total != 100 {
		t.Errorf("got %d retries, want 100", total)
	}
}

func TestBudgetDoesNotAllocate(t *testing.T) {
	r := newBudgetRig()
	if n := testing.AllocsPerRun(1000, func() {
		r.Request(budgetBegin)
		r.Take(r.policy, "192.0.2.1", false, underLoad, budgetBegin)
	}); n != 0 {
		t.Errorf("got %v allocations a request, want 0", n)
	}
}

func BenchmarkBudget(b *testing.B) {
	r := newBudgetRig()
	b.ReportAllocs()
	for range b.N {
		r.Request(budgetBegin)
		r.Take(r.policy, "192.0.2.1", false, underLoad, budgetBegin)
	}
}
