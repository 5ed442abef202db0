// SPDX-License-Identifier: Apache-2.0

// This file is the Caddy handler module "fault": its configuration and rules.

package faultinject

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("fault", parseCaddyfile)
	// Ahead of handle and route: a fault beside them concerns what is in them.
	httpcaddyfile.RegisterDirectiveOrder("fault", httpcaddyfile.Before, "invoke")
}

// Handler misbehaves on purpose in place of the handlers after it, for tests,
// demos and game days. It is not for production.
//
// It can do what a handler can: `reset_after_header`, `reset_in_upload`,
// `close_in_upload`, `reset_after_request`, `close_after_request`,
// `reset_in_headers`, `close_in_headers`, `reset_in_body`, `close_in_body`,
// `garbage`, `bad_header`, `stall_before_headers`, `stall_in_headers`,
// `stall_in_body`, `status`, `status_429`, `status_500`, `status_502`,
// `status_503`, `status_504` and `none`. Faults in headers and bodies use the
// answer of the next handler, of which up to 1 MiB is kept in memory.
//
// On HTTP/1 resets are TCP resets and closes are orderly. On HTTP/2 and HTTP/3
// a handler can end no more than its own stream, which is what happens instead
// (HTTP/2: RST_STREAM with INTERNAL_ERROR); half a header, garbage and a bad
// header become a stream without an answer.
type Handler struct {
	// Which fault. Required.
	Kind Fault `json:"kind,omitempty"`

	// How often, from 0 (never) to 1 (always), drawn for each request (default 1).
	Probability *float64 `json:"probability,omitempty"`

	// The start of the sequence of draws; the same seed gives the same sequence
	// (default 0, which is a seed like any other).
	Seed uint64 `json:"seed,omitempty"`

	// Bytes of the body that pass before a fault in it (default: half of them,
	// or one byte of a request body of unknown length). At least one byte of a
	// response's body is kept back.
	After int64 `json:"after,omitempty"`

	// How long a stall lasts before the connection (on HTTP/2 and HTTP/3: the
	// stream) is closed (default 30s).
	For caddy.Duration `json:"for,omitempty"`

	// The status code of the fault `status`, 200 to 599. Required with it.
	Status int `json:"status,omitempty"`

	// The Retry-After header of status faults, rounded up to seconds (default: none).
	RetryAfter caddy.Duration `json:"retry_after,omitempty"`

	dice   *dice
	ctx    context.Context // ends with the configuration
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.fault",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision gets the dice ready. What is wrong with the fault, Validate tells.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.ctx, h.logger = ctx, ctx.Logger()
	e, _ := lookup(h.Kind)
	h.dice = newDice(h.Seed, e, h.probability())
	return nil
}

// Validate refuses what the handler cannot do.
func (h *Handler) Validate() error {
	if err := h.check(); err != nil {
		return err
	}
	return h.complete()
}

func (h *Handler) probability() float64 {
	if h.Probability == nil {
		return 1
	}
	return *h.Probability
}

func (h *Handler) stallFor() time.Duration {
	return cmp.Or(time.Duration(h.For), DefaultStallFor)
}

// check refuses values that are wrong whatever else is configured later.
func (h *Handler) check() error {
	e, err := handlerFault(h.Kind)
	if err != nil {
		return err
	}
	p := h.probability()
	switch {
	case !(p >= 0 && p <= 1): // refuses NaN, too
		return fmt.Errorf("fault %s: probability %v is not between 0 and 1", h.Kind, p)
	case h.After < 0 || h.For < 0 || h.RetryAfter < 0:
		return fmt.Errorf("fault %s: a value is negative (after %d, for %v, retry_after %v): leave it out for its default",
			h.Kind, h.After, time.Duration(h.For), time.Duration(h.RetryAfter))
	case h.After > 0 && !e.usesAfter():
		return fmt.Errorf("fault %s: after has no effect: it is for %s", h.Kind, joined(handlerFaults(entry.usesAfter)))
	case h.For > 0 && !e.usesFor():
		return fmt.Errorf("fault %s: for has no effect: it is for %s", h.Kind, joined(handlerFaults(entry.usesFor)))
	case h.RetryAfter > 0 && !e.usesRetryAfter():
		return fmt.Errorf("fault %s: retry_after has no effect: it is for %s", h.Kind, joined(handlerFaults(entry.usesRetryAfter)))
	case h.Status != 0 && h.Kind != Status:
		return fmt.Errorf("fault %s: status has no effect: it is for %s", h.Kind, Status)
	case h.Status != 0:
		return checkStatus(h.Status)
	}
	return nil
}

// complete refuses a configuration that lacks something.
func (h *Handler) complete() error {
	if h.Kind == Status && h.Status == 0 {
		return errors.New("fault status: no status code: set status to 200 to 599")
	}
	return nil
}

// handlerFault finds the description of a fault that a handler can make.
func handlerFault(f Fault) (entry, error) {
	e, known := lookup(f)
	switch {
	case f == "":
		return e, fmt.Errorf("no fault: set kind to one of %s", joined(handlerFaults(entry.byHandler)))
	case !known:
		return e, fmt.Errorf("fault %q is unknown: use one of %s", f, joined(handlerFaults(entry.byHandler)))
	case !e.byHandler():
		return e, fmt.Errorf("fault %q cannot be made by a handler: use one of %s", f, joined(handlerFaults(entry.byHandler)))
	}
	return e, nil
}

// handlerFaults lists those faults of a handler that are such.
func handlerFaults(such func(entry) bool) []Fault {
	var fs []Fault
	for _, e := range catalogue {
		if e.byHandler() && such(e) {
			fs = append(fs, e.fault)
		}
	}
	return fs
}

// byHandler reports whether a handler can make the fault: it sees one request,
// and not the connection's life before and after it.
func (e entry) byHandler() bool {
	if e.in != anywhere {
		return false
	}
	switch e.at {
	case never, onHeader, inUpload, afterRequest, inHeaders, inBody:
		return true
	default:
		return false
	}
}

func (e entry) usesAfter() bool      { return e.at == inUpload || e.at == inBody }
func (e entry) usesFor() bool        { return e.how == byStall }
func (e entry) usesRetryAfter() bool { return e.how == byStatus }

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
