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

func TestTryKeepsTheLimit(t *testing.T) {
	l := NewLimiter(epoch)
	var permits []Permit
	for range initialLimit {
		p, ok := l.Try()
		if !ok {
			t.Fatalf("refused with %d in flight, limit %d", l.InFlight(), l.Limit())
		}
		permits = append(permits, p)
	}
	if _, ok := l.Try(); ok || l.Room(Default) != 0 {
		t.Errorf("above the limit: got ok %v and room %d, want neither", ok, l.Room(Default))
	}
	if l.Take(); l.InFlight() != initialLimit+1 {
		t.Errorf("Take: got %d in flight, want %d", l.InFlight(), initialLimit+1)
	}
	permits[0].Done(0, Ignored, epoch)
	permits[1].Done(0, Ignored, epoch)
	if _, ok := l.Try(); !ok {
		t.Error("a place that was given back is not to be had")
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
		l.Refresh(now)
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
