// SPDX-License-Identifier: Apache-2.0

// The exchange: what handler, selection, transport and matcher know together
// of one client's request.

package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/google/uuid"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// exchangeKey finds the exchange in a request's context, where the handler puts
// it. It does not lie in Caddy's variables: a dial that outlives its attempt
// still reads those, so nothing may be written there once an attempt was made.
type exchangeKey struct{}

// exchangeVarKey is where the transport puts an exchange if no handler of ours
// came before: written before the first attempt, as Caddy's proxy does with its
// own variables. Active health checks have no variables and stay unguarded.
const exchangeVarKey = "reset_guard.exchange"

// exchangeContext is the context of a request with an exchange. Dials, log lines
// and placeholders may use it after the request; the exchange may serve another
// one by then, so what the placeholders need is kept here.
type exchangeContext struct {
	context.Context
	ex *exchange // nil once the request is over
	// visit is the exchange's for handlers behind this one and for error routes; nil if
	// nothing was decided, or once the exchange serves another request.
	visit *visit

	attempts      int
	upstream      string
	cause, action string
	limit         limitFacts
}

// Value implements context.Context.
func (c *exchangeContext) Value(key any) any {
	if _, ok := key.(exchangeKey); ok {
		return c.ex
	}
	return c.Context.Value(key)
}

// exchange is one client's request on its way through Caddy's proxy. All its
// fields belong to the goroutine that serves the request; what net/http's other
// goroutines need lies in the attempt.
type exchange struct {
	failover.Exchange

	// visit is the request as the handler's limiter sees it.
	visit visit
	// site is the proxy that serves the request at present.
	site *site
	// handled tells that a handler of ours waits for the outcome: it answers
	// when all fails, and writes the log lines then.
	handled bool
	// owner is the site that made the exchange; nil if a handler did.
	owner *site
	// asked tells that our selection policy was consulted.
	asked bool
	// committed tells that a response was handed over to Caddy's proxy, upgraded
	// that its connection speaks another protocol from then on.
	committed, upgraded bool
	// pool is the list of origins that the policy chose from last; it belongs
	// to the proxy and is only read.
	pool reverseproxy.UpstreamPool
	// spool keeps the request's body; nil if there is none.
	spool *failover.Spool
	// body is the client's and request what the handler was given, with that
	// body, which is also what error routes see; empty if there is no body, or
	// no handler of ours.
	body    clientBody
	request *http.Request
	// source is what the spool reads from.
	source io.ReadCloser
	// buffered tells that source is a buffer of the proxy's, which the next
	// request may get as soon as the proxy has returned.
	buffered bool
	// admitted tells that the gate was asked, refused why it said no; class is
	// the request's importance.
	admitted bool
	refused  concurrency.Reason
	class    concurrency.Class
	ticket   concurrency.Ticket
	// overloaded tells that an upstream has had too much to do for it.
	overloaded bool
	// next is the latest decision, which the retry matcher repeats.
	next failover.Decision
	// clientErr is the error of reading the client's body, if the client can
	// still be answered (too large, too slow).
	clientErr error
	// takenBack tells that the proxy was made to end the request as if the
	// client were gone, so that no upstream is blamed, and that the handler
	// is to answer instead.
	takenBack bool
	// early tells that an answer's header came while the client was uploading,
	// drained that what came after was read.
	early, drained bool
	// unread tells that a response's body did not end by itself: who reads ahead of the
	// proxy may still be at it.
	unread bool
	// writer is what the handler passes on.
	writer statusWriter
	// passing tells that the body is longer than what is kept.
	passing bool
	// member is what is known of the upstream that was chosen for the next
	// attempt; trial tells that its return depends on the outcome. nil if our
	// selection policy has not chosen.
	member *health.Member
	trial  bool
	// current is the latest attempt's.
	current *health.Member
	// broke tells that an upstream failed after it had got bytes of the request.
	broke bool
	// triedMembers are those that have failed, the latest last.
	triedMembers []*health.Member
	usable       usable
	// key is the upstream of the latest attempt, as configured.
	key string
	// upstream is the address that was dialled last.
	upstream string
	// reported is how many records, of all there ever were, have been logged.
	reported int
	// id is the request's id, once it was needed.
	id string
	// first saves an allocation: most requests need one attempt.
	first attempt
}

// exchangeOf finds the exchange of a request; nil if there is none.
func exchangeOf(ctx context.Context) *exchange {
	if ex, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return ex
	}
	ex, _ := caddyhttp.GetVar(ctx, exchangeVarKey).(*exchange)
	return ex
}

// untried counts the available origins that have not failed in this exchange,
// without the one named, which is about to be counted as failed. If the pool is
// not known (the selection policy is not ours), there might be one.
func (ex *exchange) untried(except string) int {
	if ex.pool == nil {
		return 1
	}
	n := 0
	for _, u := range ex.pool {
		if name := u.String(); name != except && ex.Tried(name) == 0 && u.Available() && !ex.site.leavesOut(u) {
			n++
		}
	}
	return n
}

// giveBackTrial lets another request be the trial, if this one was and was not
// sent.
func (ex *exchange) giveBackTrial(now time.Time) {
	if ex.trial && ex.member != nil && ex.site != nil {
		ex.site.observe(ex.member, health.Outcome{Fault: new(health.Fault), Trial: true}, now)
	}
	ex.member, ex.trial = nil, false
}

// keepLess is what this host is too short of memory or descriptors for: to keep
// any of a body, or to keep it in a file.
type keepLess struct{ nothing, noFile bool }

// keepBody prepares the request's body for more than one attempt. It passes
// through where it is not to be kept.
func (ex *exchange) keepBody(r *http.Request, p *failover.Policy, budget *failover.SpoolBudget, less keepLess) {
	if ex.spool != nil || r.Body == nil || r.Body == http.NoBody {
		return
	}
	cfg := failover.SpoolConfig{Length: r.ContentLength, Memory: p.ReplayMemory, File: p.ReplayFile, Budget: budget}
	if less.noFile {
		cfg.File = 0
	}
	ex.source = r.Body
	_, ex.buffered = r.Body.(io.WriterTo) // what reads from a client is none
	ex.spool = failover.NewSpool(r.Body, r.Trailer, cfg)
	ex.passing = r.ContentLength > cfg.Memory+cfg.File
	if p.Attempts == 1 || less.nothing {
		ex.spool.Abandon()
	}
	if !ex.handled { // no handler of ours will close it
		context.AfterFunc(r.Context(), ex.spool.Close)
	}
}

// whole tells whether the body can be sent from its first byte.
func (ex *exchange) whole() bool { return ex.spool == nil || ex.spool.Whole() }

// goOn is called before each attempt. That there is one may be the operator's
// doing, by lb_retry_match: then what was said of the one before is not so.
func (ex *exchange) goOn() {
	if ex.committed { // its response was thrown away
		ex.committed = false
		ex.MarkTried(ex.key)
		if ex.current != nil {
			ex.triedMembers = append(ex.triedMembers, ex.current)
		}
	}
	if last := ex.Last(); last != nil && last.Decision.Action == failover.GaveUp {
		last.Decision = failover.Decision{Action: failover.Retried}
	}
}

// pause waits, once for each decision, before an origin is tried again, no
// longer than the client waits.
func (ex *exchange) pause(ctx context.Context) error {
	wait := ex.next.Wait
	if wait <= 0 {
		return nil
	}
	ex.next.Wait = 0
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close releases what the exchange keeps. Attempts that still read the body get
// an error.
func (ex *exchange) close() {
	ex.ticket.Use() // if no attempt did
	if ex.spool != nil {
		if ex.site != nil { // the file for the body may have met the limit of descriptors
			ex.site.app.registry.host.ObserveError(ex.spool.Overflow())
		}
		ex.spool.Close()
	}
}

// placeholder answers {http.reset_guard.*}. It is asked only when somebody logs
// one, so that a healthy request pays nothing for it.
func (c *exchangeContext) placeholder(key string) (any, bool) {
	name, ours := strings.CutPrefix(key, "http.reset_guard.")
	if !ours {
		return nil, false
	}
	c.note()
	if fact, ok := limitFactsIn(c.Context).placeholder(key); ok {
		return fact, true
	}
	switch name {
	case "attempts":
		return c.attempts, true
	case "upstream":
		return c.upstream, true
	case "cause":
		return c.cause, true
	case "action":
		return c.action, true
	}
	return nil, false
}

// note takes down what the placeholders answer, as long as it can change.
func (c *exchangeContext) note() {
	if c.ex == nil {
		return
	}
	c.attempts, c.upstream, c.limit = c.ex.Attempts(), c.ex.upstream, c.ex.visit.facts()
	if last := c.ex.Last(); last != nil {
		c.cause, c.action = string(last.Cause), string(last.Decision.Action)
	}
}

// plain tells that nobody but the request's own goroutine has seen anything of
// ex: one attempt over HTTP/1, without a body, without a fault, answered in
// full. Such an exchange can serve another request.
func (ex *exchange) plain() bool {
	return ex.committed && !ex.unread && !ex.upgraded && ex.Attempts() == 1 && ex.Last() == nil &&
		ex.spool == nil && ex.body.ReadCloser == nil && ex.first.abort == nil && ex.first.dog == nil && ex.first.dial == nil &&
		!ex.first.enlisted && !ex.first.transport.multiplexes
}

// adoptExchange makes an exchange for a request that has passed no handler of
// ours. It returns nil if the request is none of a client's: active health
// checks have no variables.
func adoptExchange(ctx context.Context, owner *site) *exchange {
	if ctx.Value(caddyhttp.VarsCtxKey) == nil {
		return nil
	}
	ex := &exchange{owner: owner}
	ex.Begin(time.Now())
	caddyhttp.SetVar(ctx, exchangeVarKey, ex)
	return ex
}

// requestID is the id by which a fault's log line, the guard's answer and the
// access log are brought together: {http.request.uuid}, and the field "uuid" of
// the access log. Caddy would note a new id in its variables, which is too late
// here (see exchangeKey), so a new one is noted where the variables are not.
func (ex *exchange) requestID(r *http.Request) string {
	if ex.id == "" {
		ex.id = requestID(r)
	}
	return ex.id
}

func requestID(r *http.Request) string {
	ctx := r.Context()
	if id, ok := caddyhttp.GetVar(ctx, "uuid").(fmt.Stringer); ok {
		return id.String()
	}
	id := uuid.NewString()
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.request.uuid", id)
	}
	return id
}
