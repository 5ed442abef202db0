// SPDX-License-Identifier: Apache-2.0

// What the simulator compares: our limiter, failsafe-go's, a fixed limit, none.

package concurrency

import (
	"math"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
)

func (l *Limiter) take(now time.Time) func(time.Duration, Outcome, time.Time) {
	p := l.Take()
	return func(ttfb time.Duration, o Outcome, now time.Time) { p.Done(ttfb, o, now) }
}

func ours(now time.Time) limiterUnderTest { return NewLimiter(now) }

// fixed is a limit that somebody has set by hand.
type fixed struct{ limit, inflight int }

func (f *fixed) Room(Class) int { return f.limit - f.inflight }
func (f *fixed) Limit() int     { return f.limit }
func (f *fixed) Engaged() bool  { return true }
func (f *fixed) Spare() int     { return math.MaxInt }
func (*fixed) Press()           {}
func (*fixed) join(*Gate)       {}
func (*fixed) leave(*Gate)      {}

func (f *fixed) take(time.Time) func(time.Duration, Outcome, time.Time) {
	f.inflight++
	return func(time.Duration, Outcome, time.Time) { f.inflight-- }
}

func fixedAt(limit int) func(time.Time) limiterUnderTest {
	return func(time.Time) limiterUnderTest { return &fixed{limit: limit} }
}

func none(time.Time) limiterUnderTest { return &fixed{limit: math.MaxInt32} }

// failsafe is failsafe-go's limiter. It reads the clock by itself: it needs a
// bubble of testing/synctest.
type failsafe struct {
	adaptivelimiter.AdaptiveLimiter[any]
}

func (f failsafe) Room(Class) int { return f.AdaptiveLimiter.Limit() - f.Inflight() }
func (failsafe) Engaged() bool    { return true }
func (failsafe) Spare() int       { return math.MaxInt }
func (failsafe) Press()           {}
func (failsafe) join(*Gate)       {}
func (failsafe) leave(*Gate)      {}

func (f failsafe) take(time.Time) func(time.Duration, Outcome, time.Time) {
	p, ok := f.TryAcquirePermit()
	if !ok {
		return func(time.Duration, Outcome, time.Time) {}
	}
	return func(time.Duration, Outcome, time.Time) { p.Record() }
}

// failsafeTuned has the settings that did best among several of the library.
func failsafeTuned(time.Time) limiterUnderTest {
	return failsafe{adaptivelimiter.NewBuilder[any]().
		WithLimits(4, 1000, 200).
		WithRecentWindow(250*time.Millisecond, 5*time.Second, 50).
		WithRecentQuantile(.5).
		WithMaxLimitFactor(3).
		WithMaxLimitStabilizationWindow(30 * time.Second).
		Build()}
}
