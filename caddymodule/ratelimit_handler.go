// SPDX-License-Identifier: Apache-2.0

// The handler reset_guard_limit: limits in front of anything.

package caddymodule

import (
	"fmt"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const limitDirective = "reset_guard_limit"

func init() {
	caddy.RegisterModule(LimitHandler{})
	httpcaddyfile.RegisterHandlerDirective(limitDirective, parseLimitDirective)
	// Behind what authenticates, so that it knows who is who, and before all
	// that answers.
	httpcaddyfile.RegisterDirectiveOrder(limitDirective, httpcaddyfile.After, "forward_auth")
}

// LimitHandler limits what each client, and all who share an address, may ask of
// the handlers behind it. In front of a proxy use the option `rate_limit` of
// `reset_guard` instead, which knows when the upstreams have too much to do.
type LimitHandler struct {
	RateLimit

	limiter *rateLimiter
}

// CaddyModule returns the Caddy module information.
func (LimitHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.reset_guard_limit",
		New: func() caddy.Module { return new(LimitHandler) },
	}
}

// Provision takes hold of the zone.
func (h *LimitHandler) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	options := h.RateLimit
	if options.Zone == "" {
		options.Zone = defaultZone
	}
	if h.limiter, err = newRateLimiter(app, &options); err != nil {
		return fmt.Errorf("rate limit: %w", err)
	}
	return nil
}

// Cleanup lets go of the zone.
func (h *LimitHandler) Cleanup() error { return h.limiter.release() }

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *LimitHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.limiter == nil {
		return next.ServeHTTP(w, r)
	}
	v := new(visit)
	passes := h.limiter.admit(v, w, r)
	v.leave(r)
	if v.zone != nil {
		v.tellReplacer(r)
	}
	if !passes {
		return v.refuse(w, r)
	}
	if v.zone == nil {
		return next.ServeHTTP(w, r)
	}
	return next.ServeHTTP(&limitWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, v}, r)
}

// parseLimitDirective reads the directive. Syntax:
//
//	reset_guard_limit [<matcher>] [auto | off] {
//	    # the options of rate_limit
//	}
func parseLimitDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(LimitHandler)
	h.Next()
	return handler, handler.RateLimit.unmarshalCaddyfile(h.Dispenser, limitDirective)
}

// limitWriter sees when the answer begins, however it does.
type limitWriter struct {
	caddyhttp.ResponseWriterWrapper
	visit *visit
}

// WriteHeader implements http.ResponseWriter.
func (w *limitWriter) WriteHeader(status int) {
	w.visit.answering(w.ResponseWriter, status)
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *limitWriter) Write(p []byte) (int, error) {
	w.visit.answering(w.ResponseWriter, http.StatusOK)
	return w.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (w *limitWriter) ReadFrom(r io.Reader) (int64, error) {
	w.visit.answering(w.ResponseWriter, http.StatusOK)
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is how an answer begins that has no body yet.
func (w *limitWriter) FlushError() error {
	w.visit.answering(w.ResponseWriter, http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Interface guards
var (
	_ caddy.Provisioner           = (*LimitHandler)(nil)
	_ caddy.CleanerUpper          = (*LimitHandler)(nil)
	_ caddyhttp.MiddlewareHandler = (*LimitHandler)(nil)
	_ io.ReaderFrom               = (*limitWriter)(nil)
)
