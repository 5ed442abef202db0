// SPDX-License-Identifier: Apache-2.0

// Tests of what is learned from idle connections.

package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestKeepAliveSteps(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at, idle time.Duration
		survived bool
		learned  bool
		limit    time.Duration // afterwards; -1: none
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"two failures teach", []step{
			{0, 900 * ms, false, false, -1},
			{time.Second, 800 * ms, false, true, 400 * ms},
		}},
		{"what was survived is proven", []step{
			{0, 690 * ms, true, false, -1},
			{time.Second, 900 * ms, false, false, -1},
			{2 * time.Second, 720 * ms, false, true, 621 * ms},
		}},
		{"one burst is one event, of which the longest counts", []step{
			{0, 3 * ms, false, false, -1},
			{10 * ms, 5 * time.Second, false, false, -1},
			{99 * ms, 40 * ms, false, false, -1},
			{time.Hour / 2, 8 * time.Second, false, true, 2500 * ms},
		}},
		{"a crash is not about being idle", []step{
			{0, 30 * time.Second, true, false, -1},
			{time.Second, 10 * ms, false, false, -1},
			{2 * time.Second, 10 * ms, false, false, -1},
			{3 * time.Second, 10 * ms, false, false, -1},
		}},
		{"what was survived long ago does not count", []step{
			{0, 30 * time.Second, true, false, -1},
			{62 * time.Second, 10 * time.Second, false, false, -1},
			{72 * time.Second, 10 * time.Second, false, true, 5 * time.Second},
		}},
		{"every reused connection fails", []step{
			{0, 40 * ms, false, false, -1},
			{time.Second, 90 * ms, false, true, 0},
		}},
		{"a limit too high is lowered", []step{
			{0, time.Minute, false, false, -1},
			{time.Minute, time.Minute, false, true, 30 * time.Second},
			{2 * time.Minute, 20 * time.Second, false, false, 10 * time.Second},
			{3 * time.Minute, 6 * time.Second, false, false, 3 * time.Second},
		}},
		{"a limit too low is raised by proof", []step{
			{0, time.Second, false, false, -1},
			{time.Second, time.Second, false, true, 500 * ms},
			{time.Minute, 2 * time.Second, true, false, 1800 * ms},
		}},
		{"failures an hour apart are coincidence", []step{
			{0, time.Second, false, false, -1},
			{61 * time.Minute, time.Second, false, false, -1},
		}},
		{"after a day without failures it is forgotten", []step{
			{0, time.Second, false, false, -1},
			{time.Second, time.Second, false, true, 500 * ms},
			{25 * time.Hour, 10 * ms, true, false, -1},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var k KeepAlive
			t0 := time.Unix(1_700_000_000, 0)
			for i, s := range tc.steps {
				now, learned := t0.Add(s.at), false
				if s.survived {
					k.Survived(s.idle, now)
				} else {
					learned = k.Failed(Loss{Idle: s.idle, Client: uint64(i)}, now)
				}
				limit, ok := k.Limit(now)
				if !ok {
					limit = -1
				}
				if learned != s.learned || limit != s.limit {
					t.Fatalf("step %d: got learned %v, limit %v; want %v, %v", i, learned, limit, s.learned, s.limit)
				}
			}
		})
	}
}

// TestKeepAliveRelaxes: a request that loses nothing goes further with time, one
// that does keeps to what is known.
func TestKeepAliveRelaxes(t *testing.T) {
	var k KeepAlive
	now := time.Unix(1_700_000_000, 0)
	k.Failed(Loss{Idle: time.Second, Client: 1}, now)
	k.Failed(Loss{Idle: time.Second, Client: 2}, now.Add(time.Second))
	for _, tc := range []struct {
		after, idle   time.Duration
		plain, daring bool
	}{
		{2 * time.Second, 499 * time.Millisecond, true, true},
		{2 * time.Second, 500 * time.Millisecond, false, false},
		{11 * time.Minute, 900 * time.Millisecond, false, true},
		{11 * time.Minute, time.Second, false, false},
		{21 * time.Minute, 1900 * time.Millisecond, false, true},
		{23 * time.Hour, 31 * time.Second, false, true},
		{23 * time.Hour, 33 * time.Second, false, false},
		{25 * time.Hour, time.Hour, true, true},
	} {
		at := now.Add(tc.after)
		if got := k.Reusable(tc.idle, true, at); got != tc.daring {
			t.Errorf("after %s, idle %s, daring: got %v", tc.after, tc.idle, got)
		}
		if got := k.Reusable(tc.idle, false, at); got != tc.plain {
			t.Errorf("after %s, idle %s: got %v", tc.after, tc.idle, got)
		}
	}
}

// TestKeepAliveNeedsProof: a request that is lost on any connection teaches nothing,
// and what one cause explains counts once.
func TestKeepAliveNeedsProof(t *testing.T) {
	const ms = time.Millisecond
	const page, other, third = 1, 2, 3
	lost := func(client, target uint64) func(*KeepAlive, time.Time) bool {
		return func(k *KeepAlive, now time.Time) bool {
			_, learned := k.Suspect(Loss{Idle: time.Second, Client: client, Target: target}, now)
			return learned
		}
	}
	answered := func(target uint64) func(*KeepAlive, time.Time) bool {
		return func(k *KeepAlive, now time.Time) bool {
			idle, learned := k.Answered(target, now)
			return learned && idle == time.Second
		}
	}
	refuted := func(target uint64) func(*KeepAlive, time.Time) bool {
		return func(k *KeepAlive, now time.Time) bool { k.Refuted(target, now); return false }
	}
	hung := func(client uint64, took time.Duration) func(*KeepAlive, time.Time) bool {
		return func(k *KeepAlive, now time.Time) bool {
			return k.Failed(Loss{Idle: time.Second, Client: client, Took: took}, now)
		}
	}
	type step struct {
		at      time.Duration
		does    func(*KeepAlive, time.Time) bool
		learned bool
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"without an answer", []step{{0, lost(1, page), false}, {time.Minute, lost(2, page), false}, {2 * time.Minute, lost(3, page), false}}},
		{"answered on a fresh connection", []step{
			{0, lost(1, page), false}, {ms, answered(page), false},
			{time.Minute, lost(1, page), false}, {time.Minute + ms, answered(page), true},
		}},
		{"another request was answered", []step{
			{0, lost(1, page), false}, {ms, answered(other), false},
			{time.Minute, lost(2, page), false}, {time.Minute + ms, answered(other), false},
		}},
		{"both are proven at once", []step{{0, lost(1, page), false}, {time.Minute, lost(2, page), false}, {2 * time.Minute, answered(page), true}}},
		{"lost on a fresh one, too", []step{
			{0, lost(1, page), false}, {time.Minute, lost(2, page), false}, {time.Minute + ms, refuted(page), false},
			{2 * time.Minute, answered(page), false},
		}},
		{"another was lost on a fresh one", []step{
			{0, lost(1, page), false}, {time.Minute, lost(2, page), false}, {time.Minute + ms, refuted(other), false},
			{2 * time.Minute, answered(page), true},
		}},
		{"three different requests", []step{
			{0, lost(1, page), false}, {time.Minute, lost(1, page), false}, {2 * time.Minute, lost(1, other), false},
			{3 * time.Minute, lost(1, third), true},
		}},
		{"three different requests at once", []step{{0, lost(1, page), false}, {ms, lost(2, other), false}, {2 * ms, lost(3, third), false}}},
		{"three different requests, another lost on a fresh one", []step{
			{0, lost(1, page), false}, {time.Minute, lost(1, other), false}, {time.Minute + ms, refuted(4), false},
			{2 * time.Minute, lost(1, third), false}, {3 * time.Minute, lost(1, page), false}, {4 * time.Minute, lost(1, other), true},
		}},
		{"three different requests, hours apart", []step{
			{0, lost(1, page), false}, {time.Hour / 2, lost(1, other), false}, {2 * time.Hour, lost(1, third), false},
		}},
		{"answered too late", []step{{0, lost(1, page), false}, {time.Minute, lost(2, page), false}, {2 * time.Hour, answered(page), false}}},
		{"one client", []step{
			{0, lost(1, page), false}, {500 * ms, lost(1, page), false}, {999 * ms, lost(1, page), false}, {999 * ms, answered(page), false},
			{1000 * ms, lost(1, page), false}, {1001 * ms, answered(page), true},
		}},
		{"two clients", []step{{0, lost(1, page), false}, {500 * ms, lost(2, page), false}, {501 * ms, answered(page), true}}},
		{"one hang", []step{{0, hung(1, time.Minute), false}, {50 * time.Second, hung(2, time.Minute), false}, {time.Minute, hung(3, time.Minute), false}}},
		{"one long hang", []step{
			{time.Minute, hung(1, time.Minute), false}, {90 * time.Second, hung(2, time.Minute), false}, {140 * time.Second, hung(3, time.Minute), false},
		}},
		{"two hangs", []step{{0, hung(1, time.Minute), false}, {61 * time.Second, hung(2, time.Minute), true}}},
		{"proven in another order", []step{
			{0, lost(1, other), false}, {time.Minute, lost(2, page), false},
			{time.Minute + ms, answered(page), false}, {time.Minute + 2*ms, answered(other), false}, // may be one cause: it counts once
			{2 * time.Minute, lost(1, page), false}, {2*time.Minute + ms, answered(page), true},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var k KeepAlive
			t0 := time.Unix(1_700_000_000, 0)
			for i, s := range tc.steps {
				if learned := s.does(&k, t0.Add(s.at)); learned != s.learned {
					t.Fatalf("step %d: got learned %v, want %v", i, learned, s.learned)
				}
			}
		})
	}
}

// TestKeepAliveForgetsSuspects: they are bounded, and the latest stay.
func TestKeepAliveForgetsSuspects(t *testing.T) {
	var k KeepAlive
	now := time.Unix(1_700_000_000, 0)
	for i := range uint64(10 * maxSuspects) {
		k.Suspect(Loss{Idle: time.Second, Client: i, Target: i % (unalike - 1)}, now.Add(time.Duration(i)*time.Second))
	}
	if n := len(k.suspects); n != maxSuspects || k.suspects[n-1].Client != 10*maxSuspects-1 {
		t.Errorf("got %d suspects, the last %v, want the latest %d", n, k.suspects[n-1], maxSuspects)
	}
	for i := range uint64(unalike) {
		k.Refuted(i, now)
	}
	if k.Suspected() {
		t.Error("got suspects after all were refuted")
	}
}

// TestKeepAliveLearnsAnyLimit: POSTs at gaps of 0.8 to 1.6 times the limit fail
// at most three times.
func TestKeepAliveLearnsAnyLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := time.Duration(rapid.Int64Range(int64(200*time.Millisecond), int64(5*time.Minute)).Draw(t, "limit"))
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var k KeepAlive
		now, failures, lost := time.Unix(1_700_000_000, 0), 0, false
		for range 200 {
			gap := time.Duration((0.8 + 0.8*rng.Float64()) * float64(limit))
			now = now.Add(gap)
			switch {
			case lost:
				k.Answered(0, now) // on a fresh connection, as the other one is gone
				lost = false
			case !k.Reusable(gap, false, now):
			case gap < limit:
				k.Survived(gap, now)
			default:
				failures++
				k.Suspect(Loss{Idle: gap}, now)
				lost = true
			}
			if failures > 3 {
				t.Fatalf("limit %s: got %d failures", limit, failures)
			}
		}
	})
}

func TestKeepAliveIsCheap(t *testing.T) {
	var k KeepAlive
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() { k.Survived(time.Second, now); k.Reusable(time.Second, false, now) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
