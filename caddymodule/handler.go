// SPDX-License-Identifier: Apache-2.0

// The handler: begins the exchange, and has the last word when all fails.

package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

func init() { caddy.RegisterModule(Handler{}) }

// Handler stands in front of a reverse proxy that uses the `reset_guard`
// transport. It answers when no upstream could, reads on what the client is
// still uploading so that the answer arrives, and writes the log lines once it
// is known how the request ended.
//
// It sets these placeholders, for use in access logs after the request was
// handled (`log_append`):
//
// Placeholder | Description
// ------------|-------------
// `{http.reset_guard.attempts}` | How often the request was sent to an upstream
// `{http.reset_guard.upstream}` | The upstream that it was sent to last
// `{http.reset_guard.cause}` | The cause of the last fault; empty if there was none
// `{http.reset_guard.action}` | What was done about it: `retried`, `resumed` or `gave_up`; empty if there was none
type Handler struct {
	// Whether to answer with a page of the guard's own when no upstream could.
	// If `false`, or if an error route of the server matches, the error goes
	// to Caddy's error handling. Default: `true`.
	ErrorPage *bool `json:"error_page,omitempty"`

	// The name by which this proxy identifies itself in the Proxy-Status field
	// of its own answers. Default: `reset_guard`.
	ProxyStatusName string `json:"proxy_status_name,omitempty"`

	// How much each client gets, and all who share an address. Default: `auto`.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`

	faults  *faultLog
	app     *App
	limiter *rateLimiter // nil if nothing is limited
	// exchanges are those that can serve another request: half of what the
	// guard allocates.
	exchanges *sync.Pool
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.reset_guard",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision prepares the log.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	h.faults, h.app = app.faults, app
	h.exchanges = &sync.Pool{New: func() any { return new(exchange) }}
	if h.limiter, err = newRateLimiter(app, h.RateLimit); err != nil {
		return fmt.Errorf("rate_limit: %w", err)
	}
	if h.limiter != nil {
		h.limiter.errors = h.ErrorPage != nil && !*h.ErrorPage
	}
	app.guarding = h.limiter
	return nil
}

// Cleanup lets go of the zone of the limits.
func (h *Handler) Cleanup() error { return h.limiter.release() }

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	ex := h.exchanges.Get().(*exchange)
	if h.limiter != nil && !h.limiter.admit(&ex.visit, w, r) {
		left := ex.visit // a copy, for the exchange serves others
		left.leave(r)
		left.tellReplacer(r)
		if err := ex.visit.refuse(w, r); err != nil {
			return err
		}
		*ex = exchange{}
		h.exchanges.Put(ex)
		return nil
	}
	ex.handled = true
	ex.Begin(time.Now())
	if r.Body != nil && r.ContentLength != 0 {
		ex.body.ReadCloser, ex.body.http1, ex.request = r.Body, r.ProtoMajor == 1, r
		ex.body.length = r.ContentLength
		r.Body = &ex.body // error routes read through it, too
	}
	ctx := &exchangeContext{Context: r.Context(), ex: ex}
	if ex.visit.zone != nil {
		ctx.visit = &ex.visit
		if r.Context().Value(exchangeKey{}) == nil { // see visit.leave
			caddyhttp.SetVar(r.Context(), limitVarKey, ctx)
		}
	}
	r = r.WithContext(ctx)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(ctx.placeholder)
	}
	returned := false
	defer func() {
		// Also runs when the proxy panics to abort a response.
		ex.report(h.faults, r, ending{outcome: outcomeAborted})
		if ex.trial {
			ex.giveBackTrial(time.Now())
		}
		ex.close()
		ex.body.finish()
		ctx.note()
		ctx.ex = nil
		if returned && ex.plain() {
			ctx.visit = nil
			*ex = exchange{}
			h.exchanges.Put(ex)
		}
	}()
	ex.writer = statusWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, ex}
	h.app.spareConnection(w, r)
	err := h.conclude(ex, &ex.writer, r, next.ServeHTTP(&ex.writer, r))
	returned = err == nil
	if returned {
		ex.listenOn(w)
	}
	return err
}

// spareConnection ends the connection with this answer if the host is short of
// something: what is idle takes a descriptor.
func (a *App) spareConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.Header.Get("Upgrade") == "" && !a.registry.host.State().KeepAlive() {
		w.Header().Set("Connection", "close")
	}
}

// conclude deals with what the proxy could not.
func (h *Handler) conclude(ex *exchange, w http.ResponseWriter, r *http.Request, err error) error {
	if ex.clientErr != nil {
		status := clientStatus(ex.clientErr)
		ex.report(h.faults, r, ending{outcomeError, status})
		ex.settle(w)
		return caddyhttp.Error(status, ex.clientErr)
	}
	if ex.takenBack {
		return h.answer(ex, w, r, ex.Last().Fault, caddyhttp.Error(http.StatusBadGateway, ex.Last().Err))
	}
	if err == nil {
		ex.report(h.faults, r, ending{outcome: outcomeClientGone})
		return nil
	}
	f, ours := ex.verdict(r.Context(), err)
	if !ours {
		ex.settle(w)
		return err
	}
	if f.Cause == health.ClientGone { // while it waited for room
		ex.report(h.faults, r, ending{outcome: outcomeClientGone})
		w.WriteHeader(statusClientClosedRequest)
		return nil
	}
	return h.answer(ex, w, r, f, err)
}

// errUnsendable answers a request that cannot be passed on as it is.
func errUnsendable(err error) error { return caddyhttp.Error(http.StatusBadRequest, err) }

// clientStatus is the answer to an upload that failed on the client's side.
func clientStatus(err error) int {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	if errors.Is(err, failover.ErrLength) {
		return http.StatusBadRequest
	}
	return http.StatusRequestTimeout
}

// verdict returns the fault that the proxy's error comes from, and whether it
// is for us to answer: not once a response was committed, and not if the error
// is of other making.
func (ex *exchange) verdict(ctx context.Context, err error) (health.Fault, bool) {
	if ex.committed {
		return health.Fault{}, false
	}
	if f, refused := ex.refusal(ctx); refused && ex.Last() == nil {
		ex.Note(f, "", failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonNoRoom})
		return f, true
	}
	if last := ex.Last(); last != nil {
		if last.Decision.Retry() { // the proxy's own limits ended it
			last.Decision = failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonProxy}
		}
		return last.Fault, true
	}
	var he caddyhttp.HandlerError
	if !ex.asked || !errors.As(err, &he) || he.StatusCode != http.StatusServiceUnavailable {
		return health.Fault{}, false
	}
	f := health.Fault{
		Cause: health.NoUpstream, Phase: health.PhaseDial, Side: health.SideUpstream,
		Err: cmp.Or(he.Err, err), // the id in a HandlerError's text is in no other log
	}
	if ex.site.ordersOut(ex.pool) {
		f.Side = health.SideProxy
	}
	ex.Note(f, "", failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonNoOther})
	return f, true
}

// statusWriter takes back the 499 that Caddy's proxy writes for a client that
// is gone, if the client is still there to be told more.
type statusWriter struct {
	caddyhttp.ResponseWriterWrapper
	ex *exchange
}

// statusClientClosedRequest is not in any RFC; Caddy writes it to the access log.
const statusClientClosedRequest = 499

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if status == statusClientClosedRequest && w.ex.takenBack {
		return
	}
	w.ex.beforeHeader(w, status)
	if w.ex.visit.zone != nil {
		w.ex.visit.answering(w.ResponseWriter, status)
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ http.ResponseWriter         = (*statusWriter)(nil)
)
