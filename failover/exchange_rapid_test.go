// SPDX-License-Identifier: Apache-2.0

// What holds for every course of an exchange.

package failover_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

func anyFault(t *rapid.T) health.Fault {
	return health.Fault{
		Cause: rapid.SampledFrom([]health.Cause{
			health.Refused, health.Reset, health.Closed, health.Timeout, health.Status, health.Overloaded, health.ClientGone,
		}).Draw(t, "cause"),
		Phase: rapid.SampledFrom([]health.Phase{
			health.PhaseDial, health.PhaseTLS, health.PhaseStale, health.PhaseWrite,
			health.PhaseWait, health.PhaseHeaders, health.PhaseBody,
		}).Draw(t, "phase"),
		Safety:     rapid.SampledFrom([]health.Safety{health.Never, health.IfIdempotent, health.Unprocessed, health.Unsent}).Draw(t, "safety"),
		Trip:       rapid.Bool().Draw(t, "trip"),
		StatusCode: rapid.SampledFrom([]int{0, 0, 503}).Draw(t, "status"),
	}
}

func anySituation(t *rapid.T) failover.Situation {
	return failover.Situation{
		Address:   "10.0.0.1:80",
		Untried:   rapid.IntRange(0, 3).Draw(t, "untried"),
		Whole:     rapid.IntRange(0, 9).Draw(t, "whole") > 0,
		Committed: rapid.IntRange(0, 9).Draw(t, "committed") == 0,
	}
}

func TestExchangeInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := failover.Policy{
			Attempts: rapid.IntRange(1, failover.MaxAttempts).Draw(t, "attempts"),
			Within:   time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "within")),
		}
		idempotent := rapid.Bool().Draw(t, "idempotent")
		var e failover.Exchange
		e.Begin(t0)
		e.Begin(t0)
		e.Adopt(&p, idempotent)
		now := t0
		for going := true; going; {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "later")))
			e.Attempt()
			f, s := anyFault(t), anySituation(t)
			d := e.Decide(f, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "upstream"), s, now)
			going = d.Retry()
			checkDecision(t, p, idempotent, f, s, d)
			if now = now.Add(d.Wait); going && now.Sub(t0) >= p.Within {
				t.Fatalf("an attempt begins after %v, which is not within %v", now.Sub(t0), p.Within)
			}
			if last := e.Last(); last.Decision != d || last.Attempt != e.Attempts() || len(e.Records()) != e.Attempts() {
				t.Fatalf("the record %+v of %d is not the decision %+v on attempt %d", *last, len(e.Records()), d, e.Attempts())
			}
		}
		if most := p.Attempts + failover.FreeAttempts; e.Attempts() > most {
			t.Fatalf("got %d attempts, allowed are %d", e.Attempts(), most)
		}
	})
}

// checkDecision is what must hold whatever went before.
func checkDecision(t *rapid.T, p failover.Policy, idempotent bool, f health.Fault, s failover.Situation, d failover.Decision) {
	if d.Retry() != (d.Reason == "") || d.Retry() != (d.Action == failover.Retried) || !d.Retry() && d.Action != failover.GaveUp {
		t.Fatalf("%+v contradicts itself", d)
	}
	if d.Wait < 0 || d.Wait > 800*time.Millisecond || d.Wait > 0 && (s.Untried > 0 || !d.Retry()) {
		t.Fatalf("got a wait of %v with %d other origins", d.Wait, s.Untried)
	}
	if !d.Retry() {
		return
	}
	switch {
	case f.Safety == health.Never, !idempotent && f.Safety == health.IfIdempotent:
		t.Fatalf("a request is sent again that may have been executed: safety %v, idempotent %v", f.Safety, idempotent)
	case s.Committed:
		t.Fatal("a request is sent again of which the client has a part of the answer")
	case !s.Whole:
		t.Fatal("a request is sent again without the beginning of its body")
	case p.Attempts == 1:
		t.Fatal("a request is sent again although failover is off")
	}
}
