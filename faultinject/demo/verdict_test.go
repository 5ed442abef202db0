// SPDX-License-Identifier: Apache-2.0

// Tests of what makes the demo fail.

package demo

import (
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// rowOf makes a row of 100 requests on each way, 10 of them plain POSTs, none of
// which failed.
func rowOf(f faultinject.Fault) *row {
	r := &row{fault: f}
	for w := range r.tally {
		t := &r.tally[w]
		t.all, t.gets, t.repeatable, t.plainPosts = share{100, 100}, share{60, 60}, share{90, 90}, share{10, 10}
	}
	return r
}

// lose makes n repeatable requests and m plain POSTs fail with an error.
func (t *tally) lose(n, m int) {
	t.all.right -= n + m
	t.repeatable.right -= n
	t.plainPosts.right -= m
	t.httpErrors += n + m
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault faultinject.Fault
		make  func(guard, stock *tally)
		want  string // part of the only problem; empty for none
	}{
		{"ok/all right", faultinject.Garbage, func(guard, stock *tally) {}, ""},
		{"ok/better", faultinject.Garbage, func(guard, stock *tally) { guard.lose(0, 3); stock.lose(30, 3) }, ""},
		{"ok/unlucky with POSTs", faultinject.Garbage, func(guard, stock *tally) { guard.lose(0, 5) }, ""},
		{"ok/as bad as stock", faultinject.Garbage, func(guard, stock *tally) { guard.lose(31, 0); stock.lose(30, 0) }, ""},
		{"ok/stock's POSTs", faultinject.Garbage, func(guard, stock *tally) { stock.twice = 1; stock.wrong = 1 }, ""},

		{"bad/twice", faultinject.Garbage, func(guard, stock *tally) { guard.twice = 1 }, "1 POSTs without a key were executed twice"},
		{"bad/twice, as stock", faultinject.Garbage, func(guard, stock *tally) { guard.twice, stock.twice = 1, 9 }, "executed twice"},
		{"bad/wrong", faultinject.Garbage, func(guard, stock *tally) { guard.wrong = 1 }, "1 answers were complete and wrong"},
		{"bad/broken", faultinject.Garbage, func(guard, stock *tally) { guard.broken = 1 }, "reset_guard broke 1 answers, reverse_proxy 0"},
		{"bad/more broken", faultinject.Garbage, func(guard, stock *tally) { guard.broken, stock.broken = 40, 10 }, "reset_guard broke 40"},
		{"bad/lost", faultinject.Garbage, func(guard, stock *tally) { guard.lose(1, 0) }, "reset_guard lost 1 requests that may be sent again"},
		{"bad/many POSTs lost", faultinject.Garbage, func(guard, stock *tally) { guard.lose(0, 10) }, "lost 10 POSTs without a key, reverse_proxy 0"},
		{"bad/POST lost without a fault", faultinject.None, func(guard, stock *tally) { guard.lose(0, 1) }, "lost 1 POSTs without a key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := rowOf(tc.fault)
			tc.make(&r.tally[guarded], &r.tally[plain])
			got := r.problems()
			switch {
			case tc.want == "" && len(got) == 0:
			case tc.want != "" && len(got) == 1 && strings.Contains(got[0], tc.want) && strings.HasPrefix(got[0], string(tc.fault)+": "):
			default:
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestMoreThanChance(t *testing.T) {
	for _, tc := range []struct {
		guard, stock int
		want         bool
	}{
		{0, 0, false},
		{9, 0, false},
		{10, 0, true},
		{10, 100, false},
		{100, 100, false},
		{142, 100, false}, // 42 against 3 x 15.6
		{150, 100, true},
	} {
		if got := moreThanChance(tc.guard, tc.stock); got != tc.want {
			t.Errorf("%d against %d: got %v, want %v", tc.guard, tc.stock, got, tc.want)
		}
	}
}

func TestOverallLeavesOutNone(t *testing.T) {
	if got := overall([]*row{rowOf(faultinject.None)}); got != nil {
		t.Errorf("without a fault: got %v, want nothing", got)
	}
	sum := overall([]*row{rowOf(faultinject.None), rowOf(faultinject.Refuse), rowOf(faultinject.Garbage)})
	if sum == nil || sum.sent() != 200 {
		t.Errorf("got %+v, want a sum of 200 requests", sum)
	}
}
