// SPDX-License-Identifier: Apache-2.0

// Tests of the table and of the JSON.

package demo

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// reportForTest has a row without and one with a fault.
func reportForTest() *report {
	none, stall := rowOf(faultinject.None), rowOf(faultinject.StallBeforeHeaders)
	stall.tally[plain].lose(30, 3)
	stall.tally[plain].count("status 504", 33)
	stall.tally[guarded].lose(0, 3)
	stall.tally[guarded].count("status 504", 3)
	for _, r := range []*row{none, stall} {
		for w := range ways {
			r.tally[w].took = []time.Duration{time.Millisecond + time.Duration(w)*250*time.Microsecond}
		}
	}
	stall.tally[guarded].took = []time.Duration{0, 501 * time.Millisecond}
	return &report{
		opts: options{requests: 100, seed: 7, probability: 1},
		rows: []*row{none, stall},
	}
}

func TestTable(t *testing.T) {
	const want = `                                              HTTP          POSTs  added  added
fault                 proxy           right  error  broken  twice    p50    p99
none                  reverse_proxy  100.0%   0.0%    0.0%      0  +0.25  +0.25
                      reset_guard    100.0%   0.0%    0.0%      0  +0.50  +0.50
stall_before_headers  reverse_proxy   67.0%  33.0%    0.0%      0  +0.25  +0.25
                      reset_guard     97.0%   3.0%    0.0%      0  -1.00   +500
--------------------  -------------  ------  -----  ------  -----  -----  -----
all faults            reverse_proxy   67.0%  33.0%    0.0%      0  +0.25  +0.25
                      reset_guard     97.0%   3.0%    0.0%      0  -1.00   +500
`
	var b strings.Builder
	if err := reportForTest().writeTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 79 {
			t.Errorf("%d characters are too wide for a terminal: %s", n, line)
		}
	}
	for _, s := range []string{"PROBLEM", "time was up"} {
		if strings.Contains(b.String(), s) {
			t.Errorf("%q is told without reason:\n%s", s, b.String())
		}
	}
}

func TestTableTellsWhatWasWrong(t *testing.T) {
	rep := reportForTest()
	rep.opts.requests = 200
	rep.rows[1].tally[guarded].twice = 2
	var b strings.Builder
	if err := rep.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"The time was up before all requests were sent: none 100, stall_before_headers 100.\n",
		"PROBLEM stall_before_headers: 2 POSTs without a key were executed twice.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got:\n%s\nwant in it: %s", b.String(), want)
		}
	}
}

func TestJSON(t *testing.T) {
	rep := reportForTest()
	rep.rows[1].tally[guarded].twice = 2
	var b strings.Builder
	if err := rep.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got jsonReport
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Faults) != 2 || len(got.Problems) != 1 || got.Overall == nil || got.Overall.Requests != 100 {
		t.Fatalf("got %s", b.String())
	}
	row := got.Faults[1]
	if row.Fault != faultinject.StallBeforeHeaders || row.ReverseProxy.Right != 67 || row.ReverseProxy.HTTPErrors != 33 ||
		row.ResetGuard.Twice != 2 || row.ResetGuard.AddedP99 != 0.5 || row.ResetGuard.Reasons["status 504"] != 3 {
		t.Errorf("got %+v", row)
	}
}

func TestWritersTellErrors(t *testing.T) {
	full := errors.New("disk full")
	for _, write := range []func(*report) error{
		func(r *report) error { return r.writeTable(failing{full}) },
		func(r *report) error { return r.writeJSON(failing{full}) },
	} {
		if err := write(reportForTest()); !errors.Is(err, full) {
			t.Errorf("got %v, want %v", err, full)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestPercent(t *testing.T) {
	for _, tc := range []struct {
		n, of int
		want  string
	}{
		{0, 0, "-"},
		{0, 300, "0.0%"},
		{1, 3, "33.3%"},
		{2, 3, "66.7%"},
		{300, 300, "100.0%"},
		{9999, 10000, "99.9%"},
		{1, 10000, "0.1%"},
	} {
		if got := percent(tc.n, tc.of); got != tc.want {
			t.Errorf("%d of %d: got %s, want %s", tc.n, tc.of, got, tc.want)
		}
	}
}

func TestMilliseconds(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{0, "+0.00"},
		{123 * time.Microsecond, "+0.12"},
		{-1500 * time.Microsecond, "-1.50"},
		{9996 * time.Microsecond, "+10.0"},
		{99960 * time.Microsecond, "+100"},
		{1500 * time.Millisecond, "+1500"},
	} {
		if got := milliseconds(tc.d); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.d, got, tc.want)
		}
	}
}
