// SPDX-License-Identifier: Apache-2.0

// Tests of whole runs: real origins, a real Caddy, the command as it is typed.
// Only one Caddy can run in a process, so they are not parallel.

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// quick is what --quick makes of it.
func quick(t *testing.T, faults ...string) options {
	t.Helper()
	f := flags{faults: faults, probability: 1, seed: 1, quick: true}
	opts, err := f.options(false)
	if err != nil {
		t.Fatal(err)
	}
	return opts
}

func TestRun(t *testing.T) {
	before := goleak.IgnoreCurrent()
	opts := quick(t, "none", "reset_after_request")
	rep, err := run(t.Context(), opts, newProgress(io.Discard, opts))
	if err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)

	if len(rep.rows) != 2 {
		t.Fatalf("got %d rows, want 2", len(rep.rows))
	}
	for _, r := range rep.rows {
		guard, stock := &r.tally[guarded], &r.tally[plain]
		if r.sent() != quickRequests || guard.all.sent != r.sent() || stock.all.sent != r.sent() {
			t.Errorf("%s: sent %d, %d and %d, want %d", r.fault, r.sent(), stock.all.sent, guard.all.sent, quickRequests)
		}
		if guard.gets.lost() > 0 || guard.repeatable.lost() > 0 {
			t.Errorf("%s: reset_guard lost %d GETs and %d repeatable requests in all, want none: %v",
				r.fault, guard.gets.lost(), guard.repeatable.lost(), guard.why)
		}
		if guard.twice > 0 || guard.broken > 0 {
			t.Errorf("%s: reset_guard let %d POSTs be executed twice and broke %d answers, want none: %v",
				r.fault, guard.twice, guard.broken, guard.why)
		}
		if faulty := r.fault != faultinject.None; faulty != (stock.gets.lost() > 0) {
			t.Errorf("%s: reverse_proxy lost %d GETs: the fault is not what it says", r.fault, stock.gets.lost())
		}
	}
	if p := rep.problems(); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
}

func TestRowCountsPostsExecutedTwice(t *testing.T) {
	var origins []*faultinject.Origin
	for range 2 {
		o, err := faultinject.Start(faultinject.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(o.Close)
		origins = append(origins, o)
	}
	e := &experiment{
		lab:    &lab{origins: origins},
		client: newClient(),
		requests: []request{
			withBody(request{method: "POST"}, postSize),
			withBody(request{method: "POST", key: true}, postSize),
			withBody(request{method: "POST"}, postSize),
		},
		samples: make([][ways]sample, 3),
	}
	for i, q := range e.requests {
		for k, o := range origins {
			if i == 2 && k > 0 {
				break // the third request is executed once
			}
			e.samples[i][guarded] = e.client.send(t.Context(), o.URL(), requestID(guarded, i), q)
		}
	}
	r := e.row(faultinject.None, 3)
	if got := r.tally[guarded]; got.twice != 1 || got.all != (share{3, 3}) {
		t.Errorf("got %d of %+v executed twice, want the one of them that has no key", got.twice, got.all)
	}
	if got := r.tally[plain].twice; got != 0 {
		t.Errorf("reverse_proxy: got %d executed twice, want 0", got)
	}
}

// execute runs the command with the arguments given.
func execute(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, progress bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&progress)
	err = cmd.ExecuteContext(ctx)
	return out.String(), progress.String(), err
}

func TestCommandPrintsTheTable(t *testing.T) {
	stdout, stderr, err := execute(t.Context(), "--quick", "--requests", "20", "--faults", "refuse,close_after_request")
	if err != nil {
		t.Fatalf("got error %v with %s", err, stdout)
	}
	for _, want := range []string{
		"20 requests to each proxy for each fault",
		"\nrefuse               reverse_proxy ",
		"\nclose_after_request  reverse_proxy ",
		"\nall faults           reverse_proxy ",
		"\n                     reset_guard ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("got:\n%s\nwant in it %q", stdout, want)
		}
	}
	if !strings.Contains(stderr, "1/2 refuse: 20 requests in ") || !strings.Contains(stderr, "2/2 close_after_request: 20 requests in ") {
		t.Errorf("progress: got %q, want a line per fault", stderr)
	}
}

func TestCommandFailsIfTheGuardDid(t *testing.T) {
	interrupted := fmt.Errorf("fault refuse: %w", errInterrupted)
	for _, tc := range []struct {
		name  string
		err   error // of the run
		twice int
		rows  int
		want  error
		table bool
	}{
		{"ok", nil, 0, 2, nil, true},
		{"bad/twice", nil, 1, 2, errWorse, true},
		{"bad/interrupted", interrupted, 0, 2, errInterrupted, true},
		{"bad/interrupted at once", interrupted, 0, 0, errInterrupted, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rep := reportForTest()
			rep.rows[1].tally[guarded].twice = tc.twice
			rep.rows = rep.rows[:tc.rows]
			var out bytes.Buffer
			err := new(flags).finish(&out, rep, tc.err)
			if !errors.Is(err, tc.want) {
				t.Errorf("got error %v, want %v", err, tc.want)
			}
			if got := out.Len() > 0; got != tc.table {
				t.Errorf("got a table: %v, want %v", got, tc.table)
			}
		})
	}
}

func TestCommandPrintsJSON(t *testing.T) {
	stdout, _, err := execute(t.Context(), "--requests", "10", "--faults", "status_503", "--json", "--probability", "0.5")
	if err != nil {
		t.Fatalf("got error %v with %s", err, stdout)
	}
	var got jsonReport
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if got.Probability != 0.5 || len(got.Faults) != 1 || got.Faults[0].Requests != 10 || got.Problems == nil {
		t.Errorf("got %+v", got)
	}
}

func TestCommandRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"bad/no such fault", []string{"--faults", "oops"}, `--faults: fault "oops" is unknown: use one of none, refuse`},
		{"bad/fault twice", []string{"--faults", "none,none"}, `--faults: fault "none" is named twice`},
		{"bad/needs TLS", []string{"--faults", "tls_reset"}, "the demo's origins speak HTTP/1.1 without TLS"},
		{"bad/needs HTTP/2", []string{"--faults", "goaway"}, "needs HTTP/2"},
		{"bad/half refused", []string{"--faults", "refuse", "--probability", "0.5"}, "use 0 or 1"},
		{"bad/no requests", []string{"--requests", "0"}, "use 1 to 10000"},
		{"bad/too many requests", []string{"--requests", "10001"}, "use 1 to 10000"},
		{"bad/no probability", []string{"--probability", "0"}, "use more than 0"},
		{"bad/probability over 1", []string{"--probability", "1.5"}, "use more than 0"},
		{"bad/probability NaN", []string{"--probability", "NaN"}, "use more than 0"},
		{"bad/argument", []string{"oops"}, "oops"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, _, err := execute(t.Context(), tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) || stdout != "" {
				t.Errorf("got error %v and output %q, want %q", err, stdout, tc.want)
			}
		})
	}
}

// cancelling ends the run in the middle of its second fault.
type cancelling struct {
	lines
	cancel context.CancelCauseFunc
}

func (c *cancelling) step(time.Time) {
	if c.done == 1 {
		c.cancel(errInterrupted)
	}
}

func TestInterrupt(t *testing.T) {
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancelCause(t.Context())
	opts := quick(t, "none", "garbage", "refuse")
	rep, err := run(ctx, opts, &cancelling{lines: lines{out: io.Discard}, cancel: cancel})
	if !errors.Is(err, errInterrupted) {
		t.Errorf("got error %v, want %v", err, errInterrupted)
	}
	if len(rep.rows) != 1 || rep.rows[0].fault != faultinject.None {
		t.Errorf("got %d rows, want the one that was finished", len(rep.rows))
	}
	goleak.VerifyNone(t, before)
}

func TestTimeIsUp(t *testing.T) {
	opts := quick(t, "none", "stall_before_headers")
	opts.limit = time.Nanosecond
	rep, err := run(t.Context(), opts, newProgress(io.Discard, opts))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.rows {
		if r.sent() != 1 {
			t.Errorf("%s: got %d requests, want 1", r.fault, r.sent())
		}
	}
}

func TestAllowance(t *testing.T) {
	for _, tc := range []struct {
		name     string
		left     time.Duration
		requests int
		faults   int
		want     time.Duration
	}{
		{"the last one has all", 8 * time.Second, 60, 1, 8 * time.Second},
		{"what the others do not need", 8 * time.Second, 100, 6, 8*time.Second - 5*100*pace},
		{"no less than its share", 8 * time.Second, 1000, 4, 2 * time.Second},
		{"the time is up", -time.Second, 60, 4, -250 * time.Millisecond},
	} {
		if got := allowance(tc.left, tc.requests, tc.faults); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestQuickSendsFewer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags flags
		given bool
		want  int
	}{
		{"as it comes", flags{requests: defaultRequests, probability: 1}, false, defaultRequests},
		{"quick", flags{requests: defaultRequests, probability: 1, quick: true}, false, quickRequests},
		{"quick, but so many", flags{requests: 500, probability: 1, quick: true}, true, 500},
	} {
		opts, err := tc.flags.options(tc.given)
		if err != nil {
			t.Fatal(err)
		}
		if opts.requests != tc.want {
			t.Errorf("%s: got %d requests, want %d", tc.name, opts.requests, tc.want)
		}
	}
}

func TestDefaultFaultsCanBeHad(t *testing.T) {
	for _, probability := range []float64{1, 0.3} {
		opts := options{requests: 1, probability: probability, faults: defaultFaults(probability)}
		if err := opts.validate(); err != nil {
			t.Errorf("probability %v: %v", probability, err)
		}
	}
}

func TestCommandIsRegistered(t *testing.T) {
	cmd, ok := caddycmd.Commands()["reset-guard"]
	if !ok || cmd.CobraFunc == nil {
		t.Fatal("caddy has no command reset-guard")
	}
}
