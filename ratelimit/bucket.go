// SPDX-License-Identifier: Apache-2.0

// Token buckets by value: making them full, changing their rates, lending.

package ratelimit

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// unit is what an ordinary request costs, so that weights need no fractions.
const unit = 1000

// fill makes a zero Limiter a full bucket. The time is the zero one on purpose:
// with the present one it would start empty.
func fill(l *rate.Limiter, perSecond, burst float64) {
	l.SetLimitAt(time.Time{}, rate.Limit(perSecond*unit))
	l.SetBurstAt(time.Time{}, int(burst*unit))
}

// retune changes a bucket's rate and size if they differ by more than a
// hundredth. What it holds stays, as far as it still fits.
func retune(l *rate.Limiter, perSecond, burst float64, now time.Time) {
	if limit := rate.Limit(perSecond * unit); differs(float64(l.Limit()), float64(limit), 0.01) {
		l.SetLimitAt(now, limit)
	}
	if b := int(burst * unit); differs(float64(l.Burst()), float64(b), 0.01) {
		l.SetBurstAt(now, b)
	}
}

// differs tells that b is more than a part off from a.
func differs(a, b, part float64) bool { return math.Abs(a-b) > part*math.Abs(a) }

// fullness is what a bucket holds, 1 if it is full and below 0 in debt.
func fullness(l *rate.Limiter, now time.Time) float64 {
	if l.Limit() == rate.Inf {
		return 1
	}
	return l.TokensAt(now) / max(1, float64(l.Burst()))
}

// take takes what a request costs. One that costs more than the bucket can hold
// takes all of it, so that it is not refused for ever.
func take(l *rate.Limiter, cost int, now time.Time) bool {
	return l.AllowN(now, min(cost, max(1, l.Burst())))
}

// takeAbove takes from a bucket only if it is fuller than this: what is below
// belongs to others.
func takeAbove(l *rate.Limiter, full float64, cost int, now time.Time) bool {
	return fullness(l, now) > full && take(l, cost, now)
}

// give adds requests to a bucket, which still holds no more than it can. A
// negative charge is how golang.org/x/time/rate does that; a test sees to it.
func give(l *rate.Limiter, requests float64, now time.Time) {
	room := float64(l.Burst()) - l.TokensAt(now)
	if n := int(min(requests*unit, room)); n > 0 {
		l.AllowN(now, -n)
	}
}

// waitFor is how long until a bucket holds this much.
func waitFor(l *rate.Limiter, cost float64, now time.Time) time.Duration {
	missing := min(cost, float64(l.Burst())) - l.TokensAt(now)
	if missing <= 0 || l.Limit() <= 0 {
		return 0
	}
	return time.Duration(min(missing/float64(l.Limit()), maxOwnWait.Seconds()) * float64(time.Second))
}

// maxWait bounds Retry-After where a bucket is shared: what is left of that for one client
// changes all the time, and what it was told does not. Its own may be as slow as a request
// in 100 s, and whoever asks before is refused again.
const maxWait, maxOwnWait = time.Minute, time.Hour
