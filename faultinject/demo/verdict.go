// SPDX-License-Identifier: Apache-2.0

// This file holds the figures against what the guard promises, which makes the
// demo a check.

package demo

import (
	"fmt"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// row is what one fault came to, on the three ways of sending.
type row struct {
	fault faultinject.Fault
	tally [ways]tally
}

func (r *row) sent() int { return r.tally[direct].all.sent }

// problems says in which ways reset_guard has broken its promises, or has done
// worse than reverse_proxy did.
func (r *row) problems() []string {
	guard, stock := &r.tally[guarded], &r.tally[plain]
	var found []string
	note := func(bad bool, format string, args ...any) {
		if bad {
			found = append(found, fmt.Sprintf("%s: ", r.fault)+fmt.Sprintf(format, args...))
		}
	}
	note(guard.twice > 0, "%d POSTs without a key were executed twice", guard.twice)
	note(guard.wrong > 0, "%d answers were complete and wrong", guard.wrong)
	note(worse(guard.broken, stock.broken),
		"reset_guard broke %d answers, reverse_proxy %d", guard.broken, stock.broken)
	note(worse(guard.repeatable.lost(), stock.repeatable.lost()),
		"reset_guard lost %d requests that may be sent again, reverse_proxy %d", guard.repeatable.lost(), stock.repeatable.lost())
	// Which of the plain POSTs meet the fault is luck, so that even none of
	// stock's says little, unless there is no fault to meet.
	worsePosts := moreThanChance
	if r.fault == faultinject.None {
		worsePosts = worse
	}
	note(worsePosts(guard.plainPosts.lost(), stock.plainPosts.lost()),
		"reset_guard lost %d POSTs without a key, reverse_proxy %d", guard.plainPosts.lost(), stock.plainPosts.lost())
	return found
}

// worse compares losses: where the stock proxy had none there is no excuse for
// any, otherwise there have to be more than chance explains.
func worse(guard, stock int) bool {
	return stock == 0 && guard > 0 || moreThanChance(guard, stock)
}

// moreThanChance tells whether the difference of two counts is beyond three
// standard deviations, which for rare events is three times the root of their
// sum.
func moreThanChance(guard, stock int) bool {
	d := guard - stock
	return d > 0 && d*d > 9*(guard+stock)
}

// overall sums the rows up, without the one that has no fault; nil if there
// is no other.
func overall(rows []*row) *row {
	sum := &row{fault: "all faults"}
	for _, r := range rows {
		if r.fault == faultinject.None {
			continue
		}
		for way := range sum.tally {
			sum.tally[way].merge(&r.tally[way])
		}
	}
	if sum.sent() == 0 {
		return nil
	}
	return sum
}
