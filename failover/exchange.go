// SPDX-License-Identifier: Apache-2.0

// Exchange follows one client's request through its attempts.

package failover

import (
	"math/rand/v2"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// Action is what was done about a fault.
type Action string

// The actions.
const (
	Retried Action = "retried" // the request was sent again
	Resumed Action = "resumed" // another origin was asked for the rest of the response
	GaveUp  Action = "gave_up" // no other attempt was made
)

// Reason says why the guard gave up. It is empty for a retry.
type Reason string

// The reasons to give up.
const (
	ReasonUnsafe    Reason = "not_idempotent"     // the origin may have acted on the request
	ReasonNotKept   Reason = "body_not_kept"      // the beginning of the request's body is gone
	ReasonAttempts  Reason = "attempts_used_up"   // attempts was reached
	ReasonDeadline  Reason = "deadline"           // within was reached
	ReasonNoOther   Reason = "no_other_origin"    // the same origin would answer the same
	ReasonFutile    Reason = "retry_is_futile"    // a shortage of this host, or nobody is waiting
	ReasonCommitted Reason = "response_committed" // part of the response has reached the client
	ReasonNoProof   Reason = "not_resumable"      // part of the response has reached the client, and nothing proves what belongs to it
	ReasonVersion   Reason = "other_version"      // an origin asked for the rest has another version
	ReasonNoRest    Reason = "no_rest"            // the origins asked for the rest did not send a part
	ReasonReread    Reason = "reread_used_up"     // origins have sent again as much as they may
	ReasonNoResume  Reason = "resume_off"         // part of the response has reached the client, and it is not to be resumed
	ReasonOff       Reason = "failover_off"       // the configuration allows one attempt
	ReasonNoRoom    Reason = "no_room"            // the origins have as much to do as they can
	ReasonBudget    Reason = "budget_used_up"     // too many requests are sent again already
	ReasonProxy     Reason = "proxy_gave_up"      // the proxy found no other origin, or had reached its own limits
)

// Decision is the answer to a fault. Wait is how long to wait before the next
// attempt, for a retry.
type Decision struct {
	Action Action
	Reason Reason
	Wait   time.Duration
}

// Retry tells whether the request is to be sent again.
func (d Decision) Retry() bool { return d.Action == Retried }

// Record is one fault of an exchange with what was done about it.
type Record struct {
	health.Fault
	At       time.Time
	Upstream string
	Attempt  int
	Decision Decision

	// ResumedBy is the origin that went on with the response, after ResumedAt bytes
	// of its body; empty if none did.
	ResumedBy string
	ResumedAt int64
}

// Exchange is one client's request: when it began, what was tried, what went
// wrong. It belongs to the goroutine that serves the request.
type Exchange struct {
	policy     *Policy
	start      time.Time
	idempotent bool

	attempts int
	free     int
	unsent   int // retries after which no origin had got a byte
	again    int // retries that had to go to an origin already tried

	// tried holds the origins that failed, with how often; bounded by the number
	// of the proxy's origins.
	tried     []triedOrigin
	lastTried string
	// records grows by one for each fault, those included that net/http mends
	// by itself; bounded by maxRecords.
	records []Record
	dropped int
}

// maxRecords is more than the attempts of any policy and the idle connections
// that net/http keeps for one origin by default (32 in Caddy) come to. A long
// response may be resumed more often: then the latest are kept.
const maxRecords = 64

type triedOrigin struct {
	upstream string
	times    int
}

// Begin starts the clock of an exchange. It comes before everything else.
func (e *Exchange) Begin(now time.Time) { e.start = now }

// Adopt gives the exchange its policy. A later call changes only this: a request
// that is not idempotent on any of its ways is not idempotent.
func (e *Exchange) Adopt(p *Policy, idempotent bool) {
	if e.policy != nil {
		if e.idempotent && !idempotent { // another proxy serves the same request, with another method
			e.idempotent = false
		}
		return
	}
	e.policy, e.idempotent = p, idempotent
}

// Attempt counts a new attempt and returns its number, from 1.
func (e *Exchange) Attempt() int {
	e.attempts++
	return e.attempts
}

// Attempts is how many attempts were begun.
func (e *Exchange) Attempts() int { return e.attempts }

// Idempotent tells whether the request may be sent again after an origin may
// have acted on it.
func (e *Exchange) Idempotent() bool { return e.idempotent }

// Expired tells that it is too late for another attempt.
func (e *Exchange) Expired(now time.Time) bool { return now.Sub(e.start) >= e.policy.Within }

// Tried is how often upstream has failed in this exchange.
func (e *Exchange) Tried(upstream string) int {
	for _, t := range e.tried {
		if t.upstream == upstream {
			return t.times
		}
	}
	return 0
}

// AnyTried tells whether any attempt has failed.
func (e *Exchange) AnyTried() bool { return len(e.tried) > 0 }

// LastTried is the origin that failed last.
func (e *Exchange) LastTried() string { return e.lastTried }

// Records returns what went wrong so far, oldest first. The caller must not
// keep it.
func (e *Exchange) Records() []Record { return e.records }

// Dropped is how many records were given up for later ones.
func (e *Exchange) Dropped() int { return e.dropped }

// Last returns the latest record; nil if nothing has gone wrong.
func (e *Exchange) Last() *Record {
	if len(e.records) == 0 {
		return nil
	}
	return &e.records[len(e.records)-1]
}

// Situation is what Decide needs to know besides the fault.
type Situation struct {
	// Address is the origin as it was dialled, for the record; the name under
	// which it counts as tried may be a placeholder.
	Address string
	// Untried is how many available origins have not failed in this exchange;
	// the one at fault does not count.
	Untried int
	// Whole tells that the request's body can be sent from its first byte.
	Whole bool
	// Committed tells that part of the response has gone to the client.
	Committed bool
	// Permit asks the budget for a retry, when nothing else speaks against it;
	// nil: there is none. It is told whether the attempt was free.
	Permit func(free bool) bool
}

// Decide says what to do about a fault of upstream and records it.
func (e *Exchange) Decide(f health.Fault, upstream string, s Situation, now time.Time) Decision {
	free := f.Phase == health.PhaseStale && e.free < FreeAttempts
	if free {
		e.free++ // says nothing of the origin, to which a session may stick
	} else {
		e.MarkTried(upstream)
	}
	d := Decision{Action: GaveUp, Reason: e.refusal(f, s, now)}
	switch {
	case d.Reason != "":
	case free:
		d = e.retryAfter(0, now)
	default:
		d = e.retryAfter(e.backoff(s), now)
	}
	if d.Retry() && s.Permit != nil && !s.Permit(free || e.freeUnsent(f)) {
		d = Decision{Action: GaveUp, Reason: ReasonBudget}
	}
	e.Note(f, s.Address, d)
	return d
}

// freeUnsent tells that no origin has got anything to do by the attempt: such ones
// are free of the budget, within FreeAttempts.
func (e *Exchange) freeUnsent(f health.Fault) bool {
	if f.Safety != health.Unsent || e.unsent >= FreeAttempts {
		return false
	}
	e.unsent++
	return true
}

// Note records a fault that was decided elsewhere: one that net/http retried by
// itself, or one of a committed response.
func (e *Exchange) Note(f health.Fault, upstream string, d Decision) {
	if len(e.records) == maxRecords {
		e.records = append(e.records[:0], e.records[1:]...)
		e.dropped++
	}
	e.records = append(e.records, Record{Fault: f, At: time.Now(), Upstream: upstream, Attempt: e.attempts, Decision: d})
}

// NoteResumed tells, of the latest break of the response, who went on with it and after
// how many bytes of its body.
func (e *Exchange) NoteResumed(by string, at int64) {
	for i := len(e.records) - 1; i >= 0; i-- {
		if r := &e.records[i]; r.Cause != health.Mismatch {
			r.ResumedBy, r.ResumedAt = by, at
			return
		}
	}
}

// MarkTried makes the next attempt avoid upstream.
func (e *Exchange) MarkTried(upstream string) {
	e.lastTried = upstream
	for i := range e.tried {
		if e.tried[i].upstream == upstream {
			e.tried[i].times++
			return
		}
	}
	e.tried = append(e.tried, triedOrigin{upstream, 1})
}

// refusal names the reason not to try again; empty if there is none. What keeps
// a request from being executed twice comes first.
func (e *Exchange) refusal(f health.Fault, s Situation, now time.Time) Reason {
	switch {
	case s.Committed:
		return ReasonCommitted
	case f.Safety == health.Never:
		return ReasonFutile
	case f.Safety == health.IfIdempotent && !e.idempotent:
		return ReasonUnsafe
	case e.policy.Attempts == 0 || e.policy.Attempts == 1:
		return ReasonOff
	case !s.Whole:
		return ReasonNotKept
	case e.policy.Attempts > 0 && e.attempts-e.free >= e.policy.Attempts:
		return ReasonAttempts
	case s.Untried == 0 && (f.Trip || f.StatusCode != 0 || f.Cause == health.Overloaded):
		// A certificate does not change within seconds, and an origin that
		// says it cannot do more must not be asked for more at once.
		return ReasonNoOther
	}
	return ""
}

// The waits before an origin is tried that has failed already: 50 ms, 200 ms,
// 800 ms, each less up to half of it at random. Their sum is about the gap that
// a restarting process leaves, and random so that the requests which one crash
// has hit do not come back together.
const (
	backoffBase   = 50 * time.Millisecond
	backoffFactor = 4
	backoffMax    = 800 * time.Millisecond
)

// retryAfter retries after wait, unless that is later than the policy allows.
func (e *Exchange) retryAfter(wait time.Duration, now time.Time) Decision {
	if now.Add(wait).Sub(e.start) >= e.policy.Within {
		return Decision{Action: GaveUp, Reason: ReasonDeadline}
	}
	return Decision{Action: Retried, Wait: wait}
}

// backoff is zero while there is another origin: waiting would help nobody.
func (e *Exchange) backoff(s Situation) time.Duration {
	if s.Untried > 0 {
		return 0
	}
	wait := backoffBase
	for range e.again {
		wait = min(wait*backoffFactor, backoffMax)
	}
	e.again++
	return wait/2 + rand.N(wait/2+1)
}
