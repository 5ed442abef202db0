// SPDX-License-Identifier: Apache-2.0

// Open-loop load on origins that can do so much and no more: who sends does not
// wait for who answers, as visitors do not wait for one another.

package caddymodule_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// capped is an origin with so many workers. A request that has come is worked on though its
// client may have left: most applications do not notice.
type capped struct {
	addr   string
	places chan struct{}
	work   atomic.Int64                  // in ns
	extra  atomic.Int64                  // latency that takes no worker, in ns
	gone   atomic.Pointer[chan struct{}] // closed when it forgets who waits

	worked atomic.Int64 // ns of work, as it was
	jobs   atomic.Int64
}

const (
	cappedWorkers = 4
	cappedWork    = 40 * time.Millisecond
	cappedOrigins = 2
	// cappedRate is what all of them can do, in requests per second.
	cappedRate = float64(cappedOrigins*cappedWorkers) * float64(time.Second) / float64(cappedWork)
)

func newCapped(tb testing.TB) *capped {
	c := &capped{places: make(chan struct{}, cappedWorkers)}
	gone := make(chan struct{})
	c.gone.Store(&gone)
	c.work.Store(int64(cappedWork))
	c.addr = origin(tb, c.serve)
	tb.Cleanup(c.forget)
	return c
}

func (c *capped) serve(http.ResponseWriter, *http.Request) {
	select {
	case c.places <- struct{}{}:
	case <-*c.gone.Load():
		return
	}
	began := time.Now()
	time.Sleep(time.Duration(c.work.Load()))
	c.worked.Add(int64(time.Since(began)))
	c.jobs.Add(1)
	<-c.places
	time.Sleep(time.Duration(c.extra.Load()))
}

// forget ends all requests that wait, as a restart would.
func (c *capped) forget() {
	next := make(chan struct{})
	close(*c.gone.Swap(&next))
}

// possible is how many requests the origins could have done in a time, with the
// work as long as it really was.
func possible(origins []*capped, long time.Duration) (n float64) {
	for _, c := range origins {
		each := float64(c.worked.Swap(0)) / float64(max(1, c.jobs.Swap(0)))
		n += cappedWorkers * float64(long) / max(each, float64(c.work.Load()))
	}
	return n
}

// loadResult counts what was sent in a phase after it had settled.
type loadResult struct {
	mu                    sync.Mutex
	sent, good, refused   int
	critical, criticalGot int
	took                  []time.Duration // of the good ones
}

func (r *loadResult) p99() time.Duration {
	slices.Sort(r.took)
	if len(r.took) == 0 {
		return 0
	}
	return r.took[len(r.took)*99/100]
}

// load is who sends: rate requests a second on average, at random times, and
// burst at once each second.
type load struct {
	rate, critical float64
	burst          int
	settle, long   time.Duration
}

func (l load) run(tb testing.TB, client *http.Client, s *server) *loadResult {
	tb.Helper()
	r := new(loadResult)
	var all sync.WaitGroup
	began := time.Now()
	next, nextBurst := began, began.Add(time.Second)
	for now := began; now.Sub(began) < l.settle+l.long; now = time.Now() {
		n := 0
		for ; next.Before(now); next = next.Add(time.Duration(rand.ExpFloat64() / l.rate * float64(time.Second))) {
			n++
		}
		if l.burst > 0 && now.After(nextBurst) {
			n, nextBurst = n+l.burst, nextBurst.Add(time.Second)
		}
		counts := now.Sub(began) >= l.settle
		for range n {
			all.Go(func() { r.send(client, s, counts, rand.Float64() < l.critical) })
		}
		time.Sleep(time.Millisecond)
	}
	all.Wait()
	return r
}

// patienceOfVisitors is how long an answer is worth something.
const patienceOfVisitors = time.Second

func (r *loadResult) send(client *http.Client, s *server, counts, critical bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfVisitors)
	defer cancel()
	path := "/"
	if critical {
		path = "/critical"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(path), nil)
	if err != nil {
		return
	}
	began := time.Now()
	status := 0
	if res, err := client.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		status = res.StatusCode
	}
	took := time.Since(began)
	if !counts {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	good := status == http.StatusOK && took <= patienceOfVisitors
	if good {
		r.good++
		r.took = append(r.took, took)
	}
	if status == http.StatusServiceUnavailable {
		r.refused++
	}
	if critical {
		r.critical++
		if good {
			r.criticalGot++
		}
	}
}

// startCapped starts origins and a site; %s in directives stands for them.
func startCapped(tb testing.TB, directives string) ([]*capped, *server, *http.Client) {
	tb.Helper()
	var origins []*capped
	var addrs []string
	for range cappedOrigins {
		c := newCapped(tb)
		origins, addrs = append(origins, c), append(addrs, c.addr)
	}
	s := serve(tb, fmt.Sprintf(directives, join(addrs...)))
	tr := &http.Transport{MaxIdleConnsPerHost: 2000, MaxIdleConns: 2000, DisableCompression: true}
	tb.Cleanup(tr.CloseIdleConnections)
	return origins, s, &http.Client{Transport: tr}
}

// Offered twice what the origins can do, they do nearly all that they can, and
// what is answered is answered soon.
func TestGoodputAtTwiceTheCapacity(t *testing.T) {
	origins, s, client := startCapped(t, "reset_guard %s {\noverload {\npriority critical /critical\n}\n}")
	quiet(t, 0)
	load{rate: cappedRate / 2, long: time.Second}.run(t, client, s)
	l := load{rate: 2 * cappedRate, critical: 0.2, settle: 2 * time.Second, long: 3 * time.Second}
	r := l.run(t, client, s)
	could := possible(origins, l.long)
	t.Logf("%d of %d good, %.0f possible, %d refused, p99 %v; critical %d of %d",
		r.good, r.sent, could, r.refused, r.p99(), r.criticalGot, r.critical)
	if float64(r.good) < 0.9*could {
		t.Errorf("got %d good answers of %.0f possible ones, want 90 %%", r.good, could)
	}
	if float64(r.criticalGot) < 0.98*float64(r.critical) {
		t.Errorf("got %d of %d critical requests answered", r.criticalGot, r.critical)
	}
	allGivenBack(t)
}

// Nobody is refused while there is no overload.
func TestNobodyRefusedBelowCapacity(t *testing.T) {
	origins, s, client := startCapped(t, "reset_guard %s")
	quiet(t, 0)
	l := load{rate: 0.65 * cappedRate, burst: int(0.05 * cappedRate), long: 4 * time.Second}
	if os.Getenv("RESET_GUARD_LONG") != "" {
		l.long = 10 * time.Minute
	}
	r := l.run(t, client, s)
	t.Logf("%d of %d good, %.0f possible, p99 %v", r.good, r.sent, possible(origins, l.long), r.p99())
	expect(t, "refused", r.refused, 0)
	allGivenBack(t)
}

// loadPhase is a part of the table.
type loadPhase struct {
	name    string
	offered float64       // of the capacity
	work    float64       // how much longer the work takes
	extra   time.Duration // latency at the end
	drifts  bool          // extra grows through the phase, from nothing
	idle    time.Duration // before it
}

var loadPhases = []loadPhase{
	{name: "cold start, 3 times", offered: 3, work: 1},
	{name: "0.5 times", offered: .5, work: 1},
	{name: "1 times", offered: 1, work: 1},
	{name: "2 times", offered: 2, work: 1},
	{name: "3 times", offered: 3, work: 1},
	{name: "5 times", offered: 5, work: 1},
	{name: "0.8 times, capacity falls to 30 %", offered: .8, work: 1 / .3},
	{name: "0.8 times, capacity is back", offered: .8, work: 1},
	{name: "3 times after 5 s of idleness", offered: 3, work: 1, idle: 5 * time.Second},
	{name: "0.8 times, 80 ms more latency at once", offered: .8, work: 1, extra: 80 * time.Millisecond},
	{name: "0.8 times, latency is back", offered: .8, work: 1},
	{name: "0.8 times, drifting to 80 ms more", offered: .8, work: 1, extra: 80 * time.Millisecond, drifts: true},
	{name: "2 times, 80 ms more", offered: 2, work: 1, extra: 80 * time.Millisecond},
}

// TestOverloadTable makes the table of docs/overload.md, "Through a real Caddy". Its
// short form is two phases of the guard alone.
func TestOverloadTable(t *testing.T) {
	type column struct{ name, directives string }
	columns := []column{
		{"reverse_proxy", "reverse_proxy %s"},
		{"fixed limit", fmt.Sprintf("reverse_proxy %%s {\nlb_policy least_conn\nunhealthy_request_count %d\n}", 2*cappedWorkers)},
		{"reset_guard", "reset_guard %s {\noverload {\npriority critical /critical\n}\n}"},
	}
	phases := loadPhases
	if os.Getenv("RESET_GUARD_LONG") == "" {
		columns, phases = columns[2:], []loadPhase{loadPhases[4], loadPhases[9]}
	}
	cells := make(map[string][]string)
	for _, c := range columns {
		t.Run(c.name, func(t *testing.T) {
			origins, s, client := startCapped(t, c.directives)
			if c.name == "reset_guard" {
				quiet(t, 0)
			}
			for _, p := range phases {
				cells[p.name] = append(cells[p.name], p.run(t, origins, s, client))
			}
		})
	}
	for _, p := range phases {
		row := "| " + p.name
		for _, cell := range cells[p.name] {
			row += " | " + cell
		}
		t.Log(row + " |")
	}
}

func (p loadPhase) run(t *testing.T, origins []*capped, s *server, client *http.Client) string {
	time.Sleep(p.idle)
	for _, c := range origins {
		c.forget() // what one phase has left undone is not the next one's burden
		c.work.Store(int64(float64(cappedWork) * p.work))
		c.extra.Store(int64(p.extra))
	}
	l := load{rate: p.offered * cappedRate, critical: .2, settle: 2 * time.Second, long: 8 * time.Second}
	if os.Getenv("RESET_GUARD_LONG") == "" {
		l.long = 2 * time.Second
	}
	if p.drifts {
		ctx, cancel := context.WithTimeout(t.Context(), l.settle+l.long)
		defer cancel()
		go p.drift(ctx, origins, l.settle+l.long)
	}
	r := l.run(t, client, s)
	could := min(possible(origins, l.long), float64(r.sent))
	got := min(100, 100*float64(r.good)/could)
	if columnIsGuard := !strings.Contains(t.Name(), "reverse_proxy") && !strings.Contains(t.Name(), "fixed"); columnIsGuard && got < 60 {
		t.Errorf("%s: got %.0f %% of what was possible, want most of it", p.name, got)
	}
	cell := fmt.Sprintf("%.0f %%, %d ms, %.1f %%", got, r.p99().Milliseconds(), 100*float64(r.criticalGot)/float64(max(1, r.critical)))
	t.Logf("%s: %s", p.name, cell)
	return cell
}

// drift lets the latency grow until ctx ends.
func (p loadPhase) drift(ctx context.Context, origins []*capped, long time.Duration) {
	began := time.Now()
	for ctx.Err() == nil {
		share := min(1, float64(time.Since(began))/float64(long))
		for _, c := range origins {
			c.extra.Store(int64(share * float64(p.extra)))
		}
		pass(ctx, 10*time.Millisecond)
	}
}
