// SPDX-License-Identifier: Apache-2.0

// The answer when no upstream could give one.

package caddymodule

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/health"
)

// What a client may still upload after it was answered. A client that reads
// only when it has sent everything gets its answer up to these limits; without
// reading on it would get a reset instead (RFC 9112 section 9.6).
const (
	drainBytes = 64 << 20
	drainTime  = 10 * time.Second
)

// answer gives the client one well-formed answer, unless the operator has said
// what to do about errors.
func (h *Handler) answer(ex *exchange, w http.ResponseWriter, r *http.Request, f health.Fault, err error) error {
	verdict := diagnose.Judge(f)
	ex.report(h.faults, r, ending{outcomeError, verdict.Status})
	w.Header().Add("Proxy-Status", diagnose.ProxyStatus(h.ProxyStatusName, verdict))
	if verdict.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(verdict.RetryAfter.Seconds())))
	}
	herr := caddyhttp.HandlerError{StatusCode: verdict.Status, Err: err}
	if h.ErrorPage != nil && !*h.ErrorPage || operatorHandles(r, herr) {
		ex.settle(w)
		return caddyhttp.Error(verdict.Status, herr)
	}
	// Reading on makes sense only for an upload that is under way on HTTP/1; what a
	// middleware behind us has put in its place is none.
	uploads := ex.body.http1
	switch {
	case uploads && awaitsContinue(ex, r):
		// Otherwise net/http waits for the body before it sends the header.
		w.Header().Set("Connection", "close")
		uploads = false
	case uploads:
		// Otherwise net/http reads the upload before it sends the header.
		_ = http.NewResponseController(w).EnableFullDuplex()
		ex.endConnection(w)
	}
	h.write(w, r, verdict, ex.requestID(r))
	if uploads {
		drain(ex, w)
	}
	return nil
}

func (h *Handler) write(w http.ResponseWriter, r *http.Request, verdict diagnose.Verdict, id string) {
	contentType, body := diagnose.Render(diagnose.Negotiate(r.Header.Values("Accept")), verdict, id)
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", id) // also for HEAD, and for clients that drop the body
	header.Add("Vary", "Accept")
	w.WriteHeader(verdict.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that is gone needs no answer
	}
	_ = http.NewResponseController(w).Flush()
}

// drain reads on what an HTTP/1 client is still sending, within limits. (HTTP/2
// and HTTP/3 stop an upload without losing the answer.)
func drain(ex *exchange, w http.ResponseWriter) {
	ex.drained = true
	readOn(w, drainTime, func() error {
		if ex.spool != nil {
			_, _ = ex.spool.Drain(0) // what it reads from may be a buffer that the proxy has given back
		}
		return ex.body.discard(drainBytes)
	})
}

// readOn reads what comes after an answer, until discard has met the end or the
// time is up.
func readOn(w http.ResponseWriter, long time.Duration, discard func() error) {
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(long)) != nil {
		return // without a time limit there is no reading on
	}
	if discard() != io.EOF {
		// What is left is not waited for: not by net/http either, which would
		// read on after the handler.
		_ = rc.SetReadDeadline(time.Now())
		return
	}
	_ = rc.SetReadDeadline(time.Time{})
}

// settle ends the reading of a body of which a part was read, before somebody
// else deals with the request: nobody may take the rest for a whole body, or
// look at a trailer that is just being read. An untouched body stays as it is.
//
// A read that is under way is left to end by itself. A deadline in the past
// would end it, but on HTTP/1 also the request's context, and then a proxy in an
// error route takes the client for gone.
func (ex *exchange) settle(w http.ResponseWriter) {
	if ex.body.ReadCloser == nil {
		return
	}
	if ex.spool != nil {
		if ex.body.ended.Load() {
			_, _ = ex.spool.Drain(0) // waits for no client
		}
		ex.spool.Close()
	}
	if !ex.body.touched.Load() && (ex.spool == nil || ex.spool.Untouched()) {
		return
	}
	ex.body.spent.Store(true)
	ex.request.Trailer = nil
	if !ex.body.ended.Load() {
		// Otherwise net/http waits for that read before it sends the header.
		_ = http.NewResponseController(w).EnableFullDuplex()
		ex.endConnection(w)
	}
}

// endConnection makes the answer the last one of an HTTP/1 connection, unless
// the request has come as a whole. In full duplex net/http does not see to it: it
// would look for the next request in what is left of this one, or panic because
// it has met the body's end only after it stopped to wait for more.
func (ex *exchange) endConnection(w http.ResponseWriter) {
	if ex.request != nil && ex.request.ProtoMajor == 1 && !ex.body.whole.Load() {
		w.Header().Set("Connection", "close")
	}
}

// awaitsContinue tells whether the client still asks if it may send its body
// (RFC 9110 section 10.1.1): it has just been told not to.
func awaitsContinue(ex *exchange, r *http.Request) bool {
	return expectsContinue(r) && (ex.spool == nil || ex.spool.Received() == 0)
}

func expectsContinue(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Expect"), "100-continue")
}

// operatorHandles tells whether an error route of the server would handle err:
// then it is the operator who answers. In a Caddyfile these are the sites'
// handle_errors blocks, of which each matches its own hosts only, so it has to
// be looked at which of them match.
func operatorHandles(r *http.Request, err error) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Errors == nil || len(server.Errors.Routes) == 0 {
		return false
	}
	r = asErrorRoutesSeeIt(r)
	return anyRouteMatches(server.Errors.Routes, server.Errors.WithError(r, err))
}

// asErrorRoutesSeeIt undoes rewrites, as Caddy does before its error routes. A
// copy keeps this look ahead from changing the request.
func asErrorRoutesSeeIt(r *http.Request) *http.Request {
	copied := *r
	copied.Trailer = nil // it may just be filled in by a read of the body
	c := copied.Clone(context.WithoutCancel(r.Context()))
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		c.Method, c.RemoteAddr, c.RequestURI = orig.Method, orig.RemoteAddr, orig.RequestURI
		if orig.URL != nil {
			u := *orig.URL
			c.URL = &u
		}
	}
	return c
}

// anyRouteMatches looks through subroutes: the outermost routes of a Caddyfile
// only choose the site.
func anyRouteMatches(routes caddyhttp.RouteList, r *http.Request) bool {
	for _, route := range routes {
		if ok, err := route.MatcherSets.AnyMatchWithError(r); !ok || err != nil {
			continue
		}
		for _, handler := range route.Handlers {
			sub, ok := handler.(*caddyhttp.Subroute)
			if !ok || anyRouteMatches(sub.Routes, r) {
				return true
			}
		}
	}
	return false
}
