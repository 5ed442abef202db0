// SPDX-License-Identifier: Apache-2.0

// Limits: who passes to what lies behind a handler, and who is refused.

package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/ratelimit"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// rateLimiter is a RateLimit that is ready for use: policy, and where the counters
// are.
type rateLimiter struct {
	app      *App
	number   int // in the order of the configuration
	policy   ratelimit.Policy
	zoneName string
	// terms are all that decisions depend on.
	terms string
	// budgets are those of them that a zone can have only one of.
	budgets  string
	identity []identitySource
	cookie   cookieNames
	signer   cachedSigner
	headers  string
	// policyField is the RateLimit-Policy field; "" if there is none.
	policyField string
	// errors tells that refusals have no page of ours.
	errors bool

	// shared is the zone that was named; nil if the counters are those of site.
	shared *sharedRates
	// site is what stands behind the handler; nil if that is no proxy of ours.
	site *site
	// rates are the counters of site's upstreams, once they were asked for.
	rates atomic.Pointer[sharedRates]
}

// newRateLimiter takes hold of what the options name; nil if nothing is limited.
func newRateLimiter(app *App, o *RateLimit) (*rateLimiter, error) {
	l, err := o.limiter()
	if l == nil || err != nil {
		return nil, err
	}
	l.app = app
	if err := l.agrees(app.rateLimiters); err != nil {
		return nil, err
	}
	if l.zoneName != "" {
		if l.shared, err = acquireRates(l.zoneName, time.Now()); err != nil {
			return nil, fmt.Errorf("zone %q: acquiring its counters: %w", l.zoneName, err)
		}
	}
	l.number = len(app.rateLimiters)
	app.rateLimiters = append(app.rateLimiters, l)
	return l, nil
}

// agrees tells that those who share a zone have the same budgets: a client, or an
// address, has one bucket there, which cannot be of two sizes.
func (l *rateLimiter) agrees(others []*rateLimiter) error {
	rate, burst := l.policy.ClientBudget()
	for _, other := range others {
		if l.zoneName == "" || other.zoneName != l.zoneName || other.budgets == l.budgets {
			continue
		}
		if r, b := other.policy.ClientBudget(); r != rate || b != burst {
			return fmt.Errorf("zone %q: clients have %v/s burst %v here and %v/s burst %v elsewhere in it (without `client` it is 10/s burst 100, and without `zone` it is `main`): give one of them a zone of its own with `zone <name>`", l.zoneName, round(rate), round(burst), round(r), round(b))
		}
		return fmt.Errorf("zone %q: the budgets of addresses (`auto`, `network` or `shared_ranges`) are others here than elsewhere in it (without `zone` it is `main`): give one of them a zone of its own with `zone <name>`", l.zoneName)
	}
	return nil
}

// release lets go of the zone. The limiter can still be used: slow requests may.
func (l *rateLimiter) release() error {
	if l == nil || l.shared == nil {
		return nil
	}
	return releaseRates(l.zoneName)
}

// zone is where the counters are; nil as long as nobody knows which upstreams
// there are.
func (l *rateLimiter) zone(now time.Time) *sharedRates {
	if l.shared != nil || l.site == nil {
		return l.shared
	}
	if rates := l.rates.Load(); rates != nil {
		return rates
	}
	if l.site.roster.Load() == nil {
		if l.site.start(now); l.site.roster.Load() == nil {
			return nil
		}
	}
	rates := l.app.registry.ratesOf(l.site.shared, l, now)
	if rates != nil {
		l.rates.Store(rates)
	}
	return rates
}

// pressure is how much too much there is to do: for this host, or for the
// upstreams. A host that is short of something for months still has to serve, so
// only the upper half of its pressure counts.
func (l *rateLimiter) pressure(now time.Time) float64 {
	p := max(0, 2*l.app.registry.host.State().P-1)
	if l.site != nil {
		p = max(p, l.site.strain.at(l.site, now))
	}
	return p
}

// weigh finds out how important a request is, and whether there is room for it.
// Where what keeps upstreams from overload lets everybody pass, there is nothing to
// share out. (The gate is there once the roster is.)
func (l *rateLimiter) weigh(q *ratelimit.Request, r *http.Request) {
	if l.site == nil || l.site.roster.Load() == nil || l.site.gate == nil {
		return
	}
	class := l.site.classOf(r)
	q.Critical, q.Room = class == concurrency.Critical, l.site.gate.Free(class)
}

// visit is one request, as a limiter sees it. The zero value is one that nobody
// has looked at.
type visit struct {
	limiter  *rateLimiter
	zone     *sharedRates
	request  ratelimit.Request
	decision ratelimit.Decision
	pressure float64
	now      time.Time // of the decision, then of the answer
	client   visitor
	before   *visit // by a handler before
	issues   bool   // the cookie is taken out of requests here
	begun    bool   // the answer has begun
}

// limitVarKey is where a handler leaves its visit, or the exchange's context that has
// it, for handlers behind it and for error routes, which would look for the cookie in
// vain. It is written before an attempt was made, see exchangeKey.
const limitVarKey = "reset_guard.limit"

// visitIn is the last visit of a request, so far.
func visitIn(ctx context.Context) *visit {
	// Behind a guard that is still at work, as in its handle_response.
	if ex, ok := ctx.Value(exchangeKey{}).(*exchange); ok && ex != nil && ex.visit.limiter != nil {
		if ex.visit.zone == nil {
			return ex.visit.before
		}
		return &ex.visit
	}
	switch left := caddyhttp.GetVar(ctx, limitVarKey).(type) {
	case *visit:
		return left
	case *exchangeContext:
		return left.visit
	}
	return nil
}

// admit decides about a request, and tells whether it may pass. Then it takes our
// cookie out of it.
func (l *rateLimiter) admit(v *visit, w http.ResponseWriter, r *http.Request) bool {
	if !l.decide(v, w, r) {
		return false
	}
	v.strip(r.Header)
	return true
}

func (l *rateLimiter) decide(v *visit, w http.ResponseWriter, r *http.Request) bool {
	v.limiter, v.now = l, time.Now()
	v.zone = l.zone(v.now)
	v.before = visitIn(r.Context())
	v.look(r)
	if v.zone == nil {
		return true
	}
	if same := v.decided(); same != nil {
		if same.refused() && l.site != nil {
			// An error route: its page must not cost an origin what was refused.
			v.decision = same.decision
			return false
		}
		v.zone = nil
		return true
	}
	if v.pressure = l.pressure(v.now); v.pressure > 0 {
		l.weigh(&v.request, r)
	}
	v.decision = v.zone.Decide(&l.policy, &v.request, v.pressure, v.now)
	v.decision.Offer = v.decision.Offer && !v.offeredBefore()
	if v.refused() {
		return false
	}
	if !v.decision.Allowed {
		v.trace(r)
	}
	l.tell(w.Header(), &v.decision)
	return true
}

// refused tells that the request may not pass.
func (v *visit) refused() bool { return !v.decision.Allowed && !v.limiter.policy.DryRun }

// decided is the visit before this one that has been decided about on the same terms;
// nil if there was none.
func (v *visit) decided() *visit {
	for b := v.before; b != nil; b = b.before {
		if b.zone == v.zone && b.limiter.terms == v.limiter.terms {
			return b
		}
	}
	return nil
}

// offeredBefore tells that a handler before this one may set the same cookie.
func (v *visit) offeredBefore() bool {
	for b := v.before; b != nil; b = b.before {
		if b.decision.Offer && b.limiter.cookie == v.limiter.cookie {
			return true
		}
	}
	return false
}

// leave lets handlers behind this one, and error routes, know what was decided. Behind
// a guard that is at work nothing is written: a dial may be reading the variables.
func (v *visit) leave(r *http.Request) {
	if v.zone != nil && r.Context().Value(exchangeKey{}) == nil {
		caddyhttp.SetVar(r.Context(), limitVarKey, v)
	}
}

// answering is called with the writer of the answer, just before that goes out.
func (v *visit) answering(w http.ResponseWriter, status int) {
	if v.zone == nil || v.begun || status < http.StatusOK && status != http.StatusSwitchingProtocols {
		return
	}
	v.begun = true
	switch {
	case status < http.StatusMultipleChoices && v.client.method != http.MethodHead && v.client.method != http.MethodOptions:
		v.zone.Served(v.request.Weight)
	case status < http.StatusInternalServerError:
		v.zone.ServedCheaply(v.request.Weight)
	}
	v.now = time.Now() // the answer may have taken long
	v.judgeKey(w.Header().Get("Grpc-Status"), status)
	v.dropForeignCookies(w.Header())
	if status < http.StatusBadRequest && ratelimit.Due(&v.limiter.policy, &v.request, &v.decision, v.now) {
		v.offerCookie(w, status)
	}
}

// grpcUnauthenticated is what 401 is in gRPC, whose answers are all 200. Where there is
// nothing but a status to answer, it stands in the header.
const grpcUnauthenticated = "16"

// judgeKey finds out what an answer says of the key that was shown.
func (v *visit) judgeKey(grpcStatus string, status int) {
	switch {
	case status == http.StatusUnauthorized, grpcStatus == grpcUnauthenticated:
		v.zone.Deny(&v.request)
	case grpcStatus != "" && grpcStatus != "0":
		// An error, of whatever kind.
	case v.client.method == http.MethodOptions, v.client.method == http.MethodTrace:
		// Answered without a look at keys, as before requests from other sites.
	case status >= http.StatusOK && status < http.StatusMultipleChoices:
		v.zone.Confirm(&v.limiter.policy, &v.request, v.decision, v.pressure, v.now)
	}
}

func replacerOf(r *http.Request) *caddy.Replacer {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}
