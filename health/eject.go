// SPDX-License-Identifier: Apache-2.0

// The policy of ejection: how long, how many, how back.

package health

import (
	"errors"
	"fmt"
	"time"
)

// The defaults of an EjectPolicy.
const (
	// DefaultEjectBase is short, because a trial request costs at most one
	// failover: it is safe to ask often.
	DefaultEjectBase = 5 * time.Second
	// DefaultEjectMax bounds how long an origin that was mended is missed. With
	// Envoy's 300 s it took 35 s to 60 s to get back to a fair share.
	DefaultEjectMax = time.Minute
	// DefaultMaxShare leaves half of the capacity, whatever the detector says.
	DefaultMaxShare = 0.5
	// DefaultSlowStart is long enough for caches and connection pools to fill.
	DefaultSlowStart = 10 * time.Second
)

// The limits that Validate sets.
const (
	MaxEjectDuration = 24 * time.Hour
	MaxSlowStart     = 10 * time.Minute
)

const (
	ejectJitter      = 0.2              // so that origins ejected together return apart
	ejectionForgiven = 30 * time.Second // of health make up for one ejection
	maxEjectLevel    = 32
	trialsToReturn   = 3
	trialTimeout     = 30 * time.Second       // a trial that nobody reported about is over then
	trialPause       = time.Second            // after a trial that decided nothing, or has begun to be answered
	probeSpacing     = 900 * time.Millisecond // probes that come sooner, of several sites, count once
	maxProbes        = 8                      // that must succeed, however often an origin was out
	keptQuiet        = 10 * time.Second       // between two reports that max_share keeps an origin in
	slowStartFrom    = 0.1
	watchAfterReturn = 30 * time.Second // with half of the evidence kept
	poolFaultQuiet   = 10 * time.Second // without new evidence before a pool fault may end
)

// EjectPolicy is what an operator decides about ejecting. The zero value is
// invalid; DefaultEjectPolicy is what is used unless configured otherwise.
type EjectPolicy struct {
	// Off ejects nothing by itself. Operators still can, and health still
	// weighs in the choice.
	Off bool
	// Base is how long the first ejection lasts; each further one doubles it.
	Base time.Duration
	// Max ends the doubling. The jitter of 20 % applies to it too, so that not
	// all origins that are down for long are tried again at the same time.
	Max time.Duration
	// MaxShare is which share of a pool's origins may be out at the same time.
	// One origin of two or more always may, a single one never.
	MaxShare float64
	// Bound tells that clients are bound to origins: one client's requests then
	// all go to the same one, so that a slow page is no sign of a slow origin.
	// Nothing is ejected for slowness then.
	Bound bool
	// SlowStart is how long a returning origin takes from a tenth of its share
	// to the whole; 0 gives it the whole at once.
	SlowStart time.Duration
}

// DefaultEjectPolicy returns the policy that is used unless configured otherwise.
func DefaultEjectPolicy() EjectPolicy {
	return EjectPolicy{Base: DefaultEjectBase, Max: DefaultEjectMax, MaxShare: DefaultMaxShare, SlowStart: DefaultSlowStart}
}

// Validate tells every setting that is out of its range.
func (p EjectPolicy) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(p.Base > 0 && p.Base <= MaxEjectDuration, "base is %s: allowed is more than 0s, up to %s", p.Base, MaxEjectDuration)
	check(p.Max > 0 && p.Max <= MaxEjectDuration, "max is %s: allowed is more than 0s, up to %s", p.Max, MaxEjectDuration)
	check(p.Base <= p.Max, "base is %s, which is more than max, %s", p.Base, p.Max)
	check(p.MaxShare > 0 && p.MaxShare <= 1, "max_share is %v: allowed is more than 0, up to 1%s", p.MaxShare, instead(p.MaxShare))
	check(p.SlowStart >= 0 && p.SlowStart <= MaxSlowStart, "slow_start is %s: allowed is 0s to %s", p.SlowStart, MaxSlowStart)
	return errors.Join(errs...)
}

// instead tells what to write to those who gave a share in percent.
func instead(share float64) string {
	if share >= 2 && share <= 100 {
		return fmt.Sprintf(", which is 100%%: write %.6g", share/100)
	}
	return ""
}

// maxOut is how many of n origins may be out.
func (p *EjectPolicy) maxOut(n int) int {
	if n < 2 {
		return 0
	}
	return max(1, int(p.MaxShare*float64(n)+1e-9)) // 0.29 of 100 is 28.999...96
}

// duration is how long the level-th ejection in a row lasts; level counts from
// 1, random is from 0 up to 1.
func (p *EjectPolicy) duration(level int, random float64) time.Duration {
	d := p.Max
	if shift := level - 1; p.Base <= p.Max>>shift {
		d = p.Base << shift
	}
	return time.Duration(float64(d) * (1 - ejectJitter + 2*ejectJitter*random))
}

// share is how much of its share an origin gets that long after its return.
func (p *EjectPolicy) share(back time.Duration) float64 {
	if back < 0 || back >= p.SlowStart {
		return 1
	}
	return max(slowStartFrom, float64(back)/float64(p.SlowStart))
}
