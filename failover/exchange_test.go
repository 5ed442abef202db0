// SPDX-License-Identifier: Apache-2.0

// What is done about a fault, case by case.

package failover_test

import (
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

var t0 = time.Unix(1_700_000_000, 0)

// begun is an exchange that has made its first attempt.
func begun(p failover.Policy, idempotent bool) *failover.Exchange {
	e := new(failover.Exchange)
	e.Begin(t0)
	e.Adopt(&p, idempotent)
	e.Attempt()
	return e
}

// fine is the situation in which nothing speaks against another attempt.
var fine = failover.Situation{Address: "10.0.0.1:80", Untried: 1, Whole: true}

// Each step takes away what was the reason; the next one must come to light.
// What keeps a request from being executed twice comes first.
func TestDecideOrderOfReasons(t *testing.T) {
	p := failover.Policy{Attempts: 1, Within: time.Second}
	f := health.Fault{Cause: health.Status, Phase: health.PhaseHeaders, Safety: health.Never, StatusCode: 502}
	s := failover.Situation{Committed: true}
	idempotent, attempts, now := false, 3, t0.Add(time.Second)
	for _, step := range []struct {
		reason failover.Reason
		mend   func()
	}{
		{failover.ReasonCommitted, func() { s.Committed = false }},
		{failover.ReasonFutile, func() { f.Safety = health.IfIdempotent }},
		{failover.ReasonUnsafe, func() { idempotent = true }},
		{failover.ReasonOff, func() { p.Attempts = 3 }},
		{failover.ReasonNotKept, func() { s.Whole = true }},
		{failover.ReasonAttempts, func() { attempts = 2 }},
		{failover.ReasonNoOther, func() { s.Untried = 1 }},
		{failover.ReasonDeadline, func() { now = now.Add(-1) }},
		{"", nil},
	} {
		e := begun(p, idempotent)
		for e.Attempts() < attempts {
			e.Attempt()
		}
		d := e.Decide(f, "a", s, now)
		if d.Reason != step.reason || d.Retry() != (step.reason == "") {
			t.Fatalf("got %s because of %q, want %q", d.Action, d.Reason, step.reason)
		}
		if step.mend != nil {
			step.mend()
		}
	}
}

func TestDecideBySafety(t *testing.T) {
	for _, tc := range []struct {
		safety     health.Safety
		idempotent bool
		want       failover.Reason
	}{
		{health.Unsent, false, ""},
		{health.Unsent, true, ""},
		{health.Unprocessed, false, ""},
		{health.Unprocessed, true, ""},
		{health.IfIdempotent, false, failover.ReasonUnsafe},
		{health.IfIdempotent, true, ""},
		{health.Never, false, failover.ReasonFutile},
		{health.Never, true, failover.ReasonFutile},
	} {
		e := begun(failover.DefaultPolicy(), tc.idempotent)
		d := e.Decide(health.Fault{Cause: health.Reset, Safety: tc.safety}, "a", fine, t0)
		if d.Reason != tc.want {
			t.Errorf("%v, idempotent %v: got %q, want %q", tc.safety, tc.idempotent, d.Reason, tc.want)
		}
	}
}

// The only origin is asked again if waiting may help, and not otherwise.
func TestDecideWithoutAnotherOrigin(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault health.Fault
		want  failover.Reason
	}{
		{"crash", health.Fault{Cause: health.Reset}, ""},
		{"refused", health.Fault{Cause: health.Refused}, ""},
		{"certificate", health.Fault{Cause: health.TLSExpired, Trip: true}, failover.ReasonNoOther},
		{"status", health.Fault{Cause: health.Status, StatusCode: 503}, failover.ReasonNoOther},
		{"overloaded", health.Fault{Cause: health.Overloaded}, failover.ReasonNoOther},
	} {
		for _, untried := range []int{0, 1} {
			e := begun(failover.DefaultPolicy(), true)
			tc.fault.Safety = health.IfIdempotent
			want := tc.want
			if untried > 0 {
				want = ""
			}
			if d := e.Decide(tc.fault, "a", failover.Situation{Untried: untried, Whole: true}, t0); d.Reason != want {
				t.Errorf("%s with %d others: got %q, want %q", tc.name, untried, d.Reason, want)
			}
		}
	}
}

// The first attempts on stale connections are free: neither do they count, nor
// is the origin avoided for them, nor is there a wait.
func TestDecideStaleAttemptsAreFree(t *testing.T) {
	stale := health.Fault{Cause: health.Closed, Phase: health.PhaseStale, Safety: health.Unsent}
	reset := health.Fault{Cause: health.Reset, Phase: health.PhaseWait, Safety: health.IfIdempotent}
	alone := failover.Situation{Whole: true}
	e := begun(failover.Policy{Attempts: 2, Within: time.Minute}, true)
	for i := range failover.FreeAttempts {
		d := e.Decide(stale, "a", alone, t0)
		if !d.Retry() || d.Wait != 0 || e.AnyTried() || e.Tried("a") != 0 {
			t.Errorf("stale connection %d: got %+v, tried %d; want a retry at once of an untried origin", i, d, e.Tried("a"))
		}
		e.Attempt()
	}
	if d := e.Decide(stale, "a", alone, t0); !d.Retry() || d.Wait == 0 || e.Tried("a") != 1 {
		t.Errorf("one stale connection more: got %+v, tried %d; want one that counts", d, e.Tried("a"))
	}
	e.Attempt()
	if d := e.Decide(reset, "a", alone, t0); d.Reason != failover.ReasonAttempts {
		t.Errorf("after %d attempts of which %d were free: got %+v", e.Attempts(), failover.FreeAttempts, d)
	}
}

// A stale connection does not make a request safe that is not.
func TestDecideStaleIsNotSafe(t *testing.T) {
	e := begun(failover.DefaultPolicy(), false)
	stale := health.Fault{Cause: health.Closed, Phase: health.PhaseStale, Safety: health.IfIdempotent}
	if d := e.Decide(stale, "a", fine, t0); d.Reason != failover.ReasonUnsafe {
		t.Errorf("got %+v, want %q", d, failover.ReasonUnsafe)
	}
}

func TestDecideBackoff(t *testing.T) {
	p := failover.Policy{Attempts: 7, Within: time.Minute}
	reset := health.Fault{Cause: health.Reset, Safety: health.IfIdempotent}
	e := begun(p, true)
	if d := e.Decide(reset, "a", fine, t0); d.Wait != 0 {
		t.Errorf("with another origin: got a wait of %v, want none", d.Wait)
	}
	for i, most := range []time.Duration{50, 200, 800, 800, 800} {
		most *= time.Millisecond
		e.Attempt()
		d := e.Decide(reset, "b", failover.Situation{Whole: true}, t0)
		if !d.Retry() || d.Wait < most/2 || d.Wait > most {
			t.Errorf("wait %d: got %+v, want %v to %v", i, d, most/2, most)
		}
	}
}

// Requests that one crash has hit do not come back together.
func TestDecideBackoffIsRandom(t *testing.T) {
	waits := make(map[time.Duration]bool)
	for range 100 {
		e := begun(failover.DefaultPolicy(), true)
		waits[e.Decide(health.Fault{Safety: health.Unsent}, "a", failover.Situation{Whole: true}, t0).Wait] = true
	}
	if len(waits) < 90 {
		t.Errorf("got %d different waits of 100", len(waits))
	}
}

// A retry that would start too late is not begun, the wait included.
func TestDecideDeadline(t *testing.T) {
	p := failover.Policy{Attempts: 20, Within: time.Second}
	reset := health.Fault{Cause: health.Reset, Safety: health.IfIdempotent}
	for _, tc := range []struct {
		at      time.Duration
		untried int
		want    failover.Reason
	}{
		{0, 1, ""},
		{time.Second - 1, 1, ""},
		{time.Second, 1, failover.ReasonDeadline},
		{949 * time.Millisecond, 0, ""},                                 // the wait is 50 ms at the most
		{time.Second - 25*time.Millisecond, 0, failover.ReasonDeadline}, // and 25 ms at the least
	} {
		e := begun(p, true)
		if d := e.Decide(reset, "a", failover.Situation{Untried: tc.untried, Whole: true}, t0.Add(tc.at)); d.Reason != tc.want {
			t.Errorf("at %v with %d others: got %q, want %q", tc.at, tc.untried, d.Reason, tc.want)
		}
		if late := e.Expired(t0.Add(tc.at)); late != (tc.at >= p.Within) {
			t.Errorf("at %v: expired %v", tc.at, late)
		}
	}
}

// The first policy stays, and a doubt about the method stays as well.
func TestAdopt(t *testing.T) {
	first, second := failover.Policy{Attempts: 3, Within: time.Second}, failover.DefaultPolicy()
	var e failover.Exchange
	e.Begin(t0)
	e.Adopt(&first, true)
	e.Adopt(&second, true)
	if !e.Idempotent() || e.Expired(t0.Add(time.Second-1)) || !e.Expired(t0.Add(time.Second)) {
		t.Error("the second policy has replaced the first, or its clock")
	}
	e.Adopt(&second, false)
	if e.Idempotent() {
		t.Error("a request that is not idempotent on its second way still counts as idempotent")
	}
	e.Adopt(&second, true)
	if e.Idempotent() {
		t.Error("a later way has made the request idempotent again")
	}
}

func TestRecords(t *testing.T) {
	e := begun(failover.Policy{Attempts: 2, Within: time.Minute}, true)
	if e.Last() != nil || e.AnyTried() || e.LastTried() != "" || len(e.Records()) != 0 {
		t.Error("something is recorded before anything went wrong")
	}
	reset := health.Fault{Cause: health.Reset, Safety: health.IfIdempotent}
	e.Decide(reset, "pool-a", failover.Situation{Address: "10.0.0.1:80", Untried: 1, Whole: true}, t0)
	e.Attempt()
	e.Decide(reset, "pool-b", failover.Situation{Address: "10.0.0.2:80", Untried: 1, Whole: true}, t0)
	if e.Tried("pool-a") != 1 || e.Tried("pool-b") != 1 || e.Tried("10.0.0.1:80") != 0 || e.LastTried() != "pool-b" {
		t.Errorf("got tried %d and %d, last %q", e.Tried("pool-a"), e.Tried("pool-b"), e.LastTried())
	}
	if n := len(e.Records()); n != 2 {
		t.Fatalf("got %d records, want 2", n)
	}
	first, last := e.Records()[0], e.Last()
	if first.Attempt != 1 || first.Upstream != "10.0.0.1:80" || !first.Decision.Retry() || first.Cause != health.Reset {
		t.Errorf("first record: got %+v", first)
	}
	if last.Attempt != 2 || last.Upstream != "10.0.0.2:80" || last.Decision.Reason != failover.ReasonAttempts {
		t.Errorf("last record: got %+v", last)
	}
}

// What net/http mends by itself has no bound of ours, so the records have one.
// The latest are kept.
func TestRecordsAreBounded(t *testing.T) {
	e := begun(failover.DefaultPolicy(), true)
	for i := range 1000 {
		e.Note(health.Fault{Sent: int64(i)}, "a", failover.Decision{Action: failover.Retried})
	}
	if n := len(e.Records()); n < 40 || n > 100 {
		t.Errorf("got %d records of 1000, want some dozens", n)
	}
	for i, r := range e.Records() {
		if want := int64(1000 - len(e.Records()) + i); r.Sent != want {
			t.Fatalf("record %d is number %d, want %d", i, r.Sent, want)
		}
	}
}
