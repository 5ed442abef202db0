// SPDX-License-Identifier: Apache-2.0

// How many requests may be sent again while there is too much to do.

package failover

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// The defaults of a BudgetPolicy, and what Validate allows.
const (
	// DefaultBudgetShare is Envoy's and Finagle's: a pool at its limit gets at
	// most a fifth more to do.
	DefaultBudgetShare = 0.2
	// DefaultBudgetCount lets a quiet site retry at all.
	DefaultBudgetCount = 3
	MaxBudgetCount     = 1_000_000
)

// Pressure is how much there is to do: 0 none, 1 far too much.
const (
	// PressureBudgeted is where retries begin to be counted.
	PressureBudgeted = 0.3
	// PressureNoRetries is where they end.
	PressureNoRetries = 0.5
)

// clientShare is how much of a budget one client may use up, so that nobody who
// provokes faults takes all retries from the others.
const clientShare = 0.5

// BudgetPolicy is how many retries are allowed under pressure, in any ten
// seconds: Share of the requests, and Count. The zero value allows none.
type BudgetPolicy struct {
	Share float64
	Count int
}

// DefaultBudgetPolicy returns the policy that is used unless configured otherwise.
func DefaultBudgetPolicy() BudgetPolicy {
	return BudgetPolicy{Share: DefaultBudgetShare, Count: DefaultBudgetCount}
}

// Validate tells every setting that is out of its range.
func (p BudgetPolicy) Validate() error {
	var errs []error
	if !(p.Share >= 0 && p.Share <= 1) { // so that NaN is refused
		errs = append(errs, fmt.Errorf("budget share is %v%%: allowed is 0%% to 100%%", 100*p.Share))
	}
	if p.Count < 0 || p.Count > MaxBudgetCount {
		errs = append(errs, fmt.Errorf("budget count is %d: allowed is 0 to %d", p.Count, MaxBudgetCount))
	}
	return errors.Join(errs...)
}

// Load is what decides whether retries are budgeted.
type Load struct {
	// Pressure of this host, from 0 to 1.
	Pressure float64
	// PoolFault tells that all origins fail alike, and mostly.
	PoolFault bool
}

// budgeted tells that retries are counted under this load.
func (l Load) budgeted() bool { return l.PoolFault || !(l.Pressure < PressureBudgeted) }

const (
	budgetBuckets = 10
	budgetBucket  = time.Second
	// budgetClients is how many counters clients share. Two that share one have
	// half a budget together instead of one each, which is stricter, never laxer.
	budgetClients = 1024
)

// Budget counts the requests and retries of the last ten seconds for all sites
// that share it, in bounded memory. It outlives configurations and holds no
// policy. Methods may be called from several goroutines.
type Budget struct {
	begin time.Time
	seed  maphash.Seed // unknown to clients, who cannot choose whom to collide with

	mu                sync.Mutex
	bucket            int64
	requests, retries [budgetBuckets]int64
	// clients holds each counter's retries in this and the last ten seconds.
	clients [budgetClients]clientRetries
}

// clientRetries is a sliding window of two spans: the last span counts for the
// part of it that is within ten seconds.
type clientRetries struct {
	span      int64
	now, last float32
}

// NewBudget makes a budget of which nothing is used.
func NewBudget(now time.Time) *Budget {
	return &Budget{begin: now, seed: maphash.MakeSeed()}
}

// Request counts a client's request, not its retries.
func (b *Budget) Request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advanceLocked(now)
	b.requests[b.bucket%budgetBuckets]++
}

// Take asks for a retry of a request of this client and counts it if it is
// allowed. free is for attempts of which no origin got a byte: they are always
// allowed and count for nothing. Without pressure everything is allowed, but it
// counts: whoever retried much before the pressure rose has used the budget up.
func (b *Budget) Take(p BudgetPolicy, client string, free bool, load Load, now time.Time) bool {
	if free {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	age := b.advanceLocked(now)
	c := &b.clients[maphash.String(b.seed, client)%budgetClients]
	c.advance(age)
	if load.budgeted() && !b.fitsLocked(p, c, load, age) {
		return false
	}
	b.retries[b.bucket%budgetBuckets]++
	c.now++
	return true
}

// fitsLocked tells whether one retry more is within the budget, and within the
// client's part of it.
func (b *Budget) fitsLocked(p BudgetPolicy, c *clientRetries, load Load, age time.Duration) bool {
	if !(load.Pressure <= PressureNoRetries) {
		return false
	}
	var requests, retries int64
	for i := range b.requests {
		requests += b.requests[i]
		retries += b.retries[i]
	}
	limit := p.Share*float64(requests) + float64(p.Count)
	return float64(retries+1) <= limit && c.recent(age)+1 <= max(1, clientShare*limit)
}

// advanceLocked empties the buckets whose time has come again. It returns the
// time since the beginning, which never runs backwards.
func (b *Budget) advanceLocked(now time.Time) time.Duration {
	age := max(now.Sub(b.begin), time.Duration(b.bucket)*budgetBucket)
	current := int64(age / budgetBucket)
	for n := max(b.bucket, current-budgetBuckets) + 1; n <= current; n++ {
		b.requests[n%budgetBuckets], b.retries[n%budgetBuckets] = 0, 0
	}
	b.bucket = current
	return age
}

const clientSpan = budgetBuckets * budgetBucket

func (c *clientRetries) advance(age time.Duration) {
	switch span := int64(age / clientSpan); span - c.span {
	case 0:
	case 1:
		c.span, c.last, c.now = span, c.now, 0
	default:
		c.span, c.last, c.now = span, 0, 0
	}
}

// recent is about how many retries there were in the last ten seconds.
func (c *clientRetries) recent(age time.Duration) float64 {
	past := float64(age%clientSpan) / float64(clientSpan)
	return float64(c.now) + float64(c.last)*(1-past)
}
