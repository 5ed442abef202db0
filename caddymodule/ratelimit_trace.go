// SPDX-License-Identifier: Apache-2.0

// What the access log is told of a decision, so that a refusal can be traced.

package caddymodule

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// limitFacts are what is told of a decision. The zero value is told of a request
// about which nobody has decided.
type limitFacts struct {
	limiter  *rateLimiter // nil: nobody
	class    ratelimit.Class
	budget   ratelimit.Level
	decision ratelimit.Outcome
}

func (v *visit) facts() limitFacts {
	if v.zone == nil {
		return limitFacts{}
	}
	d := &v.decision
	return limitFacts{v.limiter, d.Class, d.Level, ratelimit.OutcomeOf(d, v.limiter.policy.DryRun)}
}

// limitFactsIn are those of the handler that decided last. Whoever decides first has
// the placeholders' replacer ask here, for Caddy asks nobody after it.
func limitFactsIn(ctx context.Context) limitFacts {
	switch left := caddyhttp.GetVar(ctx, limitVarKey).(type) {
	case *visit:
		return left.facts()
	case *exchangeContext:
		left.note()
		return left.limit
	}
	return limitFacts{}
}

// tellReplacer makes the placeholders known for a request.
func (v *visit) tellReplacer(r *http.Request) {
	if repl := replacerOf(r); repl != nil && v.before == nil {
		ctx := r.Context()
		repl.Map(func(key string) (any, bool) { return limitFactsIn(ctx).placeholder(key) })
	}
}

// limitPlaceholders are before zone, class, budget and decision.
const limitPlaceholders = "http.reset_guard.limit."

func (f limitFacts) placeholder(key string) (any, bool) {
	name, ours := strings.CutPrefix(key, limitPlaceholders)
	if !ours {
		return nil, false
	}
	if f.limiter == nil {
		return "", true
	}
	switch name {
	case "zone":
		return f.limiter.label(), true
	case "class":
		return f.class.String(), true
	case "budget":
		return f.budget.String(), true
	case "decision":
		return f.decision.String(), true
	}
	return nil, false
}

// trace gives the request's access log line what was decided, and its id, which the
// answer has, too. A dry run is told what would have been.
func (v *visit) trace(r *http.Request) (id string) {
	f := v.facts()
	id = requestID(r)
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("uuid", id))
		extra.Set(zap.Dict("reset_guard_limit",
			zap.String("zone", clip(f.limiter.label())),
			zap.Stringer("class", f.class),
			zap.Stringer("budget", f.budget),
			zap.Stringer("decision", f.decision),
		))
	}
	return id
}
