// SPDX-License-Identifier: Apache-2.0

// This file adds up what clients saw and measures how long they waited.

package demo

import (
	"math"
	"net/http"
	"slices"
	"time"
)

// sample is what came of one request on one way.
type sample struct {
	outcome outcome
	why     string        // empty if the outcome is right
	took    time.Duration // until the client had its answer, or knew that it gets none
}

// share is how many of how many.
type share struct{ right, sent int }

func (s *share) add(o outcome) {
	s.sent++
	if o == right {
		s.right++
	}
}

func (s *share) merge(other share) {
	s.right += other.right
	s.sent += other.sent
}

func (s share) lost() int { return s.sent - s.right }

// tally is what one way of sending came to. The zero value is empty.
type tally struct {
	all        share
	gets       share
	repeatable share
	plainPosts share // POST without Idempotency-Key: never to be sent twice

	httpErrors, broken, wrong int

	twice int            // plain POSTs that origins executed more than once
	why   map[string]int // reasons of what was not right
	took  []time.Duration
}

func (t *tally) add(q request, s sample) {
	t.all.add(s.outcome)
	t.took = append(t.took, s.took)
	if q.method == http.MethodGet {
		t.gets.add(s.outcome)
	}
	if q.repeatable() {
		t.repeatable.add(s.outcome)
	} else {
		t.plainPosts.add(s.outcome)
	}
	switch s.outcome {
	case right:
		return
	case httpError:
		t.httpErrors++
	case broken:
		t.broken++
	}
	if s.why == whyWrong {
		t.wrong++
	}
	t.count(s.why, 1)
}

func (t *tally) count(why string, n int) {
	if t.why == nil {
		t.why = make(map[string]int)
	}
	t.why[why] += n
}

// merge adds what another one has.
func (t *tally) merge(other *tally) {
	t.all.merge(other.all)
	t.gets.merge(other.gets)
	t.repeatable.merge(other.repeatable)
	t.plainPosts.merge(other.plainPosts)
	t.httpErrors += other.httpErrors
	t.broken += other.broken
	t.wrong += other.wrong
	t.twice += other.twice
	for why, n := range other.why {
		t.count(why, n)
	}
	t.took = append(t.took, other.took...)
}

// added is by how much the clients waited longer than on the other way, at the
// same quantile.
func (t *tally) added(other *tally, q float64) time.Duration {
	return quantile(t.took, q) - quantile(other.took, q)
}

// quantile is the smallest value that at least the share q of all do not
// exceed; 0 if there are none.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
