// SPDX-License-Identifier: Apache-2.0

// Package failover decides what to do about a fault and does what needs no
// proxy: the retry rule, the kept request body, the held start of a response.
package failover

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// The defaults of a Policy.
const (
	DefaultAttempts     = 4
	DefaultWithin       = 5 * time.Second
	DefaultReplayMemory = 1 << 20
	DefaultReplayFile   = 64 << 20
	DefaultHoldBytes    = 64 << 10
	DefaultHoldFor      = 25 * time.Millisecond
	DefaultStall        = time.Minute
)

// The limits that Validate sets: beyond them a setting is surely a mistake, and
// what it bounds would be as good as unbounded.
const (
	MaxAttempts     = 20
	MaxWithin       = 10 * time.Minute
	MaxReplayMemory = 1 << 30
	MaxReplayFile   = 1 << 40
	MaxHoldBytes    = 16 << 20
	MaxHoldFor      = 10 * time.Second
	MaxStall        = 24 * time.Hour
)

// Unlimited, as a number of attempts, leaves the limit to Within and to whatever
// else ends the proxy's loop.
const Unlimited = -1

// Policy is what an operator decides about failing over. The zero value never
// tries again and keeps nothing; DefaultPolicy is what is used unless the
// configuration says otherwise.
type Policy struct {
	// Off leaves all retries to the proxy, as if there were no guard.
	Off bool
	// Attempts is how often a request is sent at the most, the first time
	// included, or Unlimited. Up to FreeAttempts on stale connections come on
	// top.
	Attempts int
	// Within is how long after the request arrived a new attempt may start.
	Within time.Duration
	// ReplayMemory and ReplayFile are how many bytes of a request's body are
	// kept for another attempt, in memory and then in a temporary file.
	ReplayMemory, ReplayFile int64
	// HoldBytes and HoldFor bound the start of a response that is kept until
	// it is safe to begin answering: whichever is reached first. Zero bytes
	// hold nothing.
	HoldBytes int64
	HoldFor   time.Duration
	// Resume says what is done about a response that breaks off after a part of
	// it has reached the client.
	Resume ResumeMode
	// Stall is for how long an origin may send and take nothing while something
	// is due. 0: without end.
	Stall time.Duration
	// IdempotencyKeys are the request header fields which promise that the
	// origin recognises a repeated request.
	IdempotencyKeys []string
	// RetryStatus are the statuses of origins that count as faults.
	RetryStatus []int
	// Budget bounds retries under pressure.
	Budget BudgetPolicy
}

// FreeAttempts is how many attempts on stale connections do not count: they
// tell nothing about the origin, which may have several such connections.
const FreeAttempts = 2

// DefaultPolicy returns the policy that is used unless configured otherwise.
func DefaultPolicy() Policy {
	return Policy{
		Attempts:        DefaultAttempts,
		Within:          DefaultWithin,
		ReplayMemory:    DefaultReplayMemory,
		ReplayFile:      DefaultReplayFile,
		HoldBytes:       DefaultHoldBytes,
		HoldFor:         DefaultHoldFor,
		Resume:          ResumeOn,
		Stall:           DefaultStall,
		IdempotencyKeys: []string{"Idempotency-Key", "X-Idempotency-Key"},
		RetryStatus:     []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout},
		Budget:          DefaultBudgetPolicy(),
	}
}

// Validate tells every setting that is out of its range.
func (p Policy) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(p.Attempts >= 1 && p.Attempts <= MaxAttempts || p.Attempts == Unlimited,
		"attempts is %d: allowed is 1 to %d, or %d for no limit but within", p.Attempts, MaxAttempts, Unlimited)
	check(p.Within >= 0 && p.Within <= MaxWithin, "within is %s: allowed is 0s to %s", p.Within, MaxWithin)
	check(p.ReplayMemory >= 0 && p.ReplayMemory <= MaxReplayMemory, "replay in memory is %d bytes: allowed is 0 to %d", p.ReplayMemory, MaxReplayMemory)
	check(p.ReplayFile >= 0 && p.ReplayFile <= MaxReplayFile, "replay in a file is %d bytes: allowed is 0 to %d", p.ReplayFile, int64(MaxReplayFile))
	check(p.HoldBytes >= 0 && p.HoldBytes <= MaxHoldBytes, "hold is %d bytes: allowed is 0 to %d", p.HoldBytes, MaxHoldBytes)
	check(p.HoldFor >= 0 && p.HoldFor <= MaxHoldFor, "hold is %s: allowed is 0s to %s", p.HoldFor, MaxHoldFor)
	check(p.Stall >= 0 && p.Stall <= MaxStall, "stall is %s: allowed is 0s to %s", p.Stall, MaxStall)
	for _, s := range p.RetryStatus {
		check(s >= 400 && s <= 599, "retry_status %d: allowed is 400 to 599, errors only", s)
	}
	errs = append(errs, p.Budget.Validate())
	return errors.Join(errs...)
}

// Idempotent tells whether r may be sent again although an origin may have
// acted on it: by its method (RFC 9110 section 9.2.2) or because it carries an
// idempotency key.
func (p *Policy) Idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace,
		http.MethodPut, http.MethodDelete, "": // net/http's empty method means GET
		return true
	}
	for _, name := range p.IdempotencyKeys {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

// RetriesStatus tells whether a response with this status is a fault.
func (p *Policy) RetriesStatus(status int) bool {
	return status >= 400 && slices.Contains(p.RetryStatus, status)
}
