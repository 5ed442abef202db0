// SPDX-License-Identifier: Apache-2.0

// The soak: a real Caddy with the directive's defaults under a steady load,
// while origins fail. RESET_GUARD_LONG=1 makes each scenario last a minute, with
// 2, 3 and 10 origins, and prints a table: ./xcaddy.sh soak

package caddymodule_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// scenario is what goes wrong with the origins.
type scenario struct {
	name    string
	share   float64 // of the idempotent requests are to be answered right
	short   bool    // part of the ordinary tests
	latency func(i int) time.Duration
	// trouble makes the faults until ctx ends; period is for what comes and goes.
	trouble func(ctx context.Context, origins []*faultinject.Origin, period time.Duration) error
}

var scenarios = []scenario{
	{name: "one dead", share: .999, trouble: dead},
	{name: "one resets 30 %", share: .999, short: true, trouble: resetting(.3, 1)},
	{name: "one resets 5 %", share: .999, trouble: resetting(.05, 1)},
	{name: "one flaps", share: .999, short: true, trouble: flapping},
	{name: "all reset 30 %", share: .99, short: true, trouble: resetting(.3, math.MaxInt)},
	{name: "one ten times slower", share: .999, short: true, latency: tenTimesSlower},
}

// dead is an origin that refuses connections.
func dead(ctx context.Context, origins []*faultinject.Origin, _ time.Duration) error {
	err := origins[0].SetFault(faultinject.Refuse, 1)
	<-ctx.Done()
	return err
}

// resets are the moments at which connections are reset. They take turns.
var resets = []faultinject.Fault{
	faultinject.ResetAfterRequest, faultinject.ResetInHeaders, faultinject.ResetInBody, faultinject.ResetAfterHeader,
}

// resetting makes the first n origins reset that share of the requests.
func resetting(share float64, n int) func(context.Context, []*faultinject.Origin, time.Duration) error {
	return func(ctx context.Context, origins []*faultinject.Origin, _ time.Duration) error {
		for turn := 0; ctx.Err() == nil; turn++ {
			for i, o := range origins[:min(n, len(origins))] {
				if err := o.SetFault(resets[(turn+i)%len(resets)], share); err != nil {
					return err
				}
			}
			pass(ctx, 50*time.Millisecond)
		}
		return nil
	}
}

// flapping is an origin that is bad for a fifth of the time: in turns it resets
// everything, and is gone as a process that is restarted.
func flapping(ctx context.Context, origins []*faultinject.Origin, period time.Duration) error {
	for turn := 0; ctx.Err() == nil; turn++ {
		bad := []faultinject.Fault{faultinject.ResetAfterRequest, faultinject.Refuse}[turn%2]
		if err := origins[0].SetFault(bad, 1); err != nil {
			return err
		}
		pass(ctx, period/5)
		if err := origins[0].SetFault(faultinject.None, 1); err != nil {
			return err
		}
		pass(ctx, period*4/5)
	}
	return nil
}

func tenTimesSlower(i int) time.Duration {
	if i == 0 {
		return 300 * time.Millisecond
	}
	return 30 * time.Millisecond
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// after answers well, but late.
func after(d time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pass(r.Context(), d)
		_, _ = w.Write(soakWanted)
	})
}

func TestSoak(t *testing.T) {
	sizes, long, period := []int{3}, 5*time.Second, 2*time.Second
	all := os.Getenv("RESET_GUARD_LONG") != ""
	if all {
		sizes, long, period = []int{3, 2, 10}, time.Minute, 10*time.Second
	}
	table := newSoakTable()
	for _, n := range sizes {
		for _, sc := range scenarios {
			if all || sc.short {
				t.Run(fmt.Sprintf("%d origins/%s", n, sc.name), func(t *testing.T) { soak(t, sc, n, long, period, table) })
			}
		}
	}
	if all {
		_, _ = io.Copy(os.Stdout, table)
	}
}

// patientHold is empty but under the race detector, with which a busy machine
// may take longer than the 25 ms of a hold to pass on what an origin has sent.
func patientHold() string {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return " {\n failover {\n hold 64KiB 2s\n }\n }"
	}
	return ""
}

func soak(t *testing.T, sc scenario, n int, long, period time.Duration, table *soakTable) {
	leaveNothing(t)
	var origins []*faultinject.Origin
	for i := range n {
		cfg := faultinject.Config{Seed: uint64(i + 1)}
		if sc.latency != nil {
			cfg.Handler = after(sc.latency(i))
		}
		origins = append(origins, startOrigin(t, cfg))
	}
	s := serve(t, guarded+" "+join(addrsOf(origins)...)+patientHold())

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		if sc.trouble == nil {
			done <- nil
			return
		}
		done <- sc.trouble(ctx, origins, period)
	}()
	r := runLoad(t.Context(), s.url(""), long)
	stop()
	if err := receive(t, "the end of the trouble", done); err != nil {
		t.Fatal(err)
	}
	row := soakRow{scenario: sc, origins: n, result: r, twice: sentTwice(origins, r.postIDs), ejections: len(s.told(t, "upstream ejected"))}
	for _, o := range origins {
		row.attempts += o.Requests()
	}
	row.check(t)
	table.add(row)
}

// told returns the lines with this message.
func (s *server) told(tb testing.TB, msg string) []logLine {
	tb.Helper()
	var lines []logLine
	for _, l := range s.linesWith(tb, msg) {
		if l.text("msg") == msg {
			lines = append(lines, l)
		}
	}
	return lines
}

// sentTwice counts the requests that origins may have acted on more than once.
func sentTwice(origins []*faultinject.Origin, ids []string) (twice int) {
	for _, id := range ids {
		n := 0
		for _, o := range origins {
			n += o.Executions(id)
		}
		if n > 1 {
			twice++
		}
	}
	return twice
}

// soakRow is one line of the table.
type soakRow struct {
	scenario                   scenario
	origins                    int
	result                     *soakResult
	twice, ejections, attempts int
}

func (row *soakRow) check(t *testing.T) {
	t.Helper()
	r := row.result
	if missed, may := r.idempotent.sent-r.idempotent.right, mayMiss(r.idempotent.sent, 1-row.scenario.share); missed > may {
		t.Errorf("idempotent: %d of %d were not answered right, want at most %d: %s", missed, r.idempotent.sent, may, r.idempotent.whyNot())
	}
	expect(t, "broken idempotent requests", r.idempotent.broken, 0)
	expect(t, "broken POSTs", r.posts.broken, 0)
	expect(t, "POSTs that may have been executed twice", row.twice, 0)
	t.Logf("not right: %s; of POSTs: %s", r.idempotent.whyNot(), r.posts.whyNot())
}

// mayMiss is how many of n requests miss, each with probability p, in all but
// one of a million runs. With many requests that is little more than n times p.
func mayMiss(n int, p float64) int {
	mean := float64(n) * p
	term, left := math.Exp(-mean), 1.0
	for k := 0; ; k++ {
		if left -= term; left < 1e-6 {
			return k
		}
		term *= mean / float64(k+1)
	}
}

// soakTable is written as Markdown.
type soakTable struct{ bytes.Buffer }

func newSoakTable() *soakTable {
	t := new(soakTable)
	head := []string{"origins", "scenario", "idempotent", "right", "errors", "broken", "POST", "right", "errors", "broken", "twice", "ejections", "reached origins", "p99"}
	fmt.Fprintf(t, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	return t
}

func (t *soakTable) add(row soakRow) {
	r := row.result
	fmt.Fprintf(t, "| %d | %s | %d | %.3f %% | %d | %d | %d | %.2f %% | %d | %d | %d | %d | %.2f | %d ms |\n",
		row.origins, row.scenario.name,
		r.idempotent.sent, percent(r.idempotent), r.idempotent.clean, r.idempotent.broken,
		r.posts.sent, percent(r.posts), r.posts.clean, r.posts.broken,
		row.twice, row.ejections, float64(row.attempts)/float64(r.idempotent.sent+r.posts.sent), r.p99().Milliseconds())
}

func percent(t soakTally) float64 { return 100 * float64(t.right) / float64(max(1, t.sent)) }
