// SPDX-License-Identifier: Apache-2.0

// The limiter's permits, and what it takes for evidence of overload.

package concurrency

import (
	"sync"
	"testing"
	"time"
)

// epoch is when the tests' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// serve lets n requests in a row take so long each, and tells when that was over.
func serve(l *Limiter, n int, took time.Duration, outcome Outcome, now time.Time) time.Time {
	for range n {
		p := l.Take()
		now = now.Add(took)
		p.Done(took, outcome, now)
	}
	return now
}

func TestRoomFollowsTheLimit(t *testing.T) {
	l := NewLimiter(epoch)
	var permits []Permit
	for n := range initialLimit {
		if got := l.Room(Default); got != initialLimit-n {
			t.Fatalf("with %d in flight: got room %d, want %d", n, got, initialLimit-n)
		}
		permits = append(permits, l.Take())
	}
	if l.Take(); l.Room(Default) > 0 || l.InFlight() != initialLimit+1 {
		t.Errorf("above the limit: got room %d and %d in flight", l.Room(Default), l.InFlight())
	}
	permits[0].Done(0, Ignored, epoch)
	permits[1].Done(0, Ignored, epoch)
	if got := l.Room(Default); got != 1 {
		t.Errorf("two places given back: got room %d, want 1", got)
	}
}

func TestZeroPermit(t *testing.T) {
	Permit{}.Done(time.Second, OK, epoch)
}

func TestEvidence(t *testing.T) {
	const usual = 20 * time.Millisecond
	for name, tc := range map[string]struct {
		then    func(l *Limiter, now time.Time) time.Time
		engaged bool
	}{
		"nothing": {func(l *Limiter, now time.Time) time.Time { return now }, false},
		"slow answers": {func(l *Limiter, now time.Time) time.Time {
			return serve(l, 40, 150*time.Millisecond, OK, now)
		}, true},
		"thrice as slow, but fast": {func(l *Limiter, now time.Time) time.Time {
			return serve(l, 40, 70*time.Millisecond, OK, now)
		}, false},
		"few timeouts": {func(l *Limiter, now time.Time) time.Time {
			return serve(l, 3, 0, Overload, now)
		}, false},
		"many timeouts": {func(l *Limiter, now time.Time) time.Time {
			return serve(l, 10, 0, Overload, now)
		}, true},
		"many ignored": {func(l *Limiter, now time.Time) time.Time {
			return serve(l, 50, time.Second, Ignored, now)
		}, false},
		"pressure": {func(l *Limiter, now time.Time) time.Time {
			l.SetPressure(0.1)
			return now
		}, true},
		"long ago": {func(l *Limiter, now time.Time) time.Time {
			now = serve(l, 10, 0, Overload, now)
			return serve(l, 10, usual, OK, now.Add(time.Minute))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLimiter(epoch)
			now := serve(l, 100, usual, OK, epoch)
			tc.then(l, now)
			if got := l.Engaged(); got != tc.engaged {
				t.Errorf("engaged: got %v, want %v", got, tc.engaged)
			}
		})
	}
}

func TestErrorsLowerTheLimit(t *testing.T) {
	l := NewLimiter(epoch)
	var permits []Permit
	for range 50 {
		permits = append(permits, l.Take())
	}
	now := epoch
	for _, p := range permits {
		now = now.Add(50 * time.Millisecond)
		p.Done(0, Overload, now)
	}
	if got := l.Limit(); got >= 45 || got < leastLimit {
		t.Errorf("after 2.5 s of errors with 50 in flight: got a limit of %d, want less than 45", got)
	}
}

func TestIdlenessChangesNothing(t *testing.T) {
	l := NewLimiter(epoch)
	now := serve(l, 100, 20*time.Millisecond, OK, epoch)
	before := l.Limit()
	serve(l, 100, 20*time.Millisecond, OK, now.Add(24*time.Hour))
	if got := l.Limit(); got != before {
		t.Errorf("limit after a day: got %d, want %d", got, before)
	}
}

func TestLimiterUnderRace(t *testing.T) {
	l, g := NewLimiter(epoch), NewGate(Policy{Mode: Enforce})
	g.Sync([]*Limiter{l})
	defer g.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				now := epoch.Add(time.Duration(i) * time.Millisecond)
				if ticket, reason := g.Admit(t.Context(), Request{}, now); reason == NotRefused {
					p := l.Take()
					ticket.Use()
					p.Done(time.Millisecond, Outcome(i%3), now.Add(time.Millisecond))
				}
			}
		})
	}
	wg.Wait()
	if l.InFlight() != 0 || g.pending.Load() != 0 {
		t.Errorf("left over: %d in flight, %d tickets", l.InFlight(), g.pending.Load())
	}
}

// Evidence ends with its time, also where no outcome says anything any more.
func TestEvidenceEndsWithoutAnswers(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	for range 40 {
		now = now.Add(50 * time.Millisecond)
		l.Take().Done(0, Overload, now)
	}
	if s := l.Status(); !s.Engaged || s.Why != Errors || s.Taken != 0 {
		t.Fatalf("after 40 refusals: got %+v, want it engaged by errors", s)
	}
	for range 200 {
		now = now.Add(100 * time.Millisecond)
		l.Take().Done(0, Ignored, now)
		l.Tick(now)
	}
	if l.Engaged() {
		t.Error("engaged twenty seconds after the last refusal, want not")
	}
}

func TestReset(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	held := l.Take()
	for range 200 {
		now = now.Add(50 * time.Millisecond)
		l.Take().Done(0, Overload, now)
	}
	l.Reset()
	if s := l.Status(); s.Engaged || s.Limit != initialLimit || s.Taken != 1 {
		t.Errorf("got %+v, want it as at first but for what is in flight", s)
	}
	held.Done(time.Millisecond, OK, now)
	if l.InFlight() != 0 {
		t.Errorf("in flight: got %d, want 0", l.InFlight())
	}
}

// Places that are held for long do not keep others away, and are not given back
// twice when they end after all.
func TestOldPlacesDoNotCount(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	var old []Permit
	for range 50 {
		old = append(old, l.Take())
	}
	for range 4 * 12 {
		now = now.Add(250 * time.Millisecond)
		l.Tick(now)
	}
	if got := l.InFlight(); got != 0 {
		t.Errorf("after twelve seconds: got %d in flight, want 0", got)
	}
	young := l.Take()
	for _, p := range old {
		p.Done(12*time.Second, Ignored, now)
	}
	if got := l.InFlight(); got != 1 {
		t.Errorf("after the old ones have ended: got %d in flight, want the young one", got)
	}
	l.Tick(now.Add(time.Hour))
	young.Done(time.Hour, Ignored, now.Add(time.Hour))
	if got := l.InFlight(); got != 0 {
		t.Errorf("an hour later: got %d in flight, want 0", got)
	}
}

// A probe ends by time where no answer comes.
func TestProbeEndsWithoutAnswers(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	l.knee.limit, l.knee.base = 40, float64(20*time.Millisecond)
	l.knee.beginProbe(0)
	l.Tick(now)
	if got := l.Room(Default); got != 18 {
		t.Fatalf("in a probe: got room for %d, want 18 of 40", got)
	}
	for range 4 * 3 {
		now = now.Add(250 * time.Millisecond)
		l.Tick(now)
	}
	if got := l.Room(Default); got != 40 || l.knee.probe.watching {
		t.Errorf("three seconds later: got room for %d, want 40 and no probe", got)
	}
}

// What has never answered anybody in time is overloaded as well.
func TestAbandonedBeforeAnyAnswer(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	for range 20 {
		now = now.Add(100 * time.Millisecond)
		l.Take().Done(time.Second, Abandoned, now)
	}
	if s := l.Status(); !s.Engaged || s.Limit >= initialLimit {
		t.Errorf("twenty clients left after a second each: got %+v, want it engaged", s)
	}
}

// Clients that leave early say nothing where others are answered.
func TestAbandonedBesideAnswers(t *testing.T) {
	l, now := NewLimiter(epoch), epoch
	for i := range 3000 {
		now = now.Add(10 * time.Millisecond)
		l.Take().Done(20*time.Millisecond, OK, now)
		if i > 500 {
			l.Take().Done(time.Second, Abandoned, now)
		}
	}
	if s := l.Status(); s.Engaged || s.Limit < initialLimit {
		t.Errorf("got %+v, want it not engaged, and the limit as at first", s)
	}
}
