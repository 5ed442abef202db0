// SPDX-License-Identifier: Apache-2.0

// This file makes faults as a Caddy handler: on a hijacked connection in
// HTTP/1, and with what net/http offers in HTTP/2 and HTTP/3.

package faultinject

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// maxHandlerAnswer is how much of the next handler's body is kept. A fault in
// a longer one strikes there at the latest.
const maxHandlerAnswer = 1 << 20

// ServeHTTP lets the next handler answer, or makes the fault.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	e := h.dice.request()
	if e.at == never || (e.at == inUpload && r.ContentLength == 0) {
		return next.ServeHTTP(w, r)
	}
	if c := h.logger.Check(zapcore.DebugLevel, "making fault"); c != nil {
		c.Write(zap.String("fault", string(e.fault)), zap.String("method", r.Method), zap.String("uri", r.RequestURI))
	}
	switch e.at {
	case inHeaders, inBody:
		return h.breakAnswer(w, r, next, e)
	case inUpload:
		// What the client does wrong meanwhile makes no difference any more.
		_, _ = io.CopyN(io.Discard, r.Body, uploadCut(h.After, r.ContentLength))
	case afterRequest:
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if e.how == byStatus {
		code := e.status
		if code == 0 {
			code = h.Status
		}
		writeStatus(w, code, time.Duration(h.RetryAfter))
		return nil
	}
	h.breakRequest(w, r, e)
	return nil
}

// breakRequest makes a fault before any part of a good answer.
func (h *Handler) breakRequest(w http.ResponseWriter, r *http.Request, e entry) {
	conn, ok := h.hijack(w)
	if !ok {
		h.abort(r, e)
	}
	switch e.how {
	case byGarbage:
		_, _ = io.WriteString(conn, h1Garbage)
	case byBadHeader:
		_, _ = io.WriteString(conn, h1BadHeader)
	}
	h.end(conn, e)
}

// breakAnswer sends a part of the next handler's answer. An error of that
// handler is no answer, and goes to Caddy's error routes unharmed.
func (h *Handler) breakAnswer(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, e entry) error {
	rec := &recorder{header: w.Header().Clone(), limit: maxHandlerAnswer, lossy: true}
	if err := next.ServeHTTP(rec, r); err != nil && rec.status == 0 {
		return err
	}
	a := rec.answer(r.Method, false)
	conn, ok := h.hijack(w)
	if !ok {
		h.abortAnswer(w, r, a, e)
	}
	head, _ := a.h1Head(r)
	if e.at == inHeaders {
		_, _ = conn.Write(half(head))
	} else {
		_, _ = (&net.Buffers{head, a.h1Body(r, a.cut(h.After))}).WriteTo(conn)
	}
	h.end(conn, e)
	return nil
}

// abortAnswer sends a part of the answer as a stream, and ends the stream.
func (h *Handler) abortAnswer(w http.ResponseWriter, r *http.Request, a answer, e entry) {
	if e.at == inBody {
		clear(w.Header())
		maps.Copy(w.Header(), a.header)
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body[:a.cut(h.After)])
		_ = http.NewResponseController(w).Flush()
	}
	h.abort(r, e)
}

// abort ends the stream; it does not return.
func (h *Handler) abort(r *http.Request, e entry) {
	if e.how == byStall {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(h.ctx, cancel)()
		wait(ctx, h.stallFor())
	}
	panic(http.ErrAbortHandler)
}

// end breaks a hijacked connection, at the latest when the configuration ends.
func (h *Handler) end(conn *wire, e entry) {
	defer context.AfterFunc(h.ctx, func() { _ = conn.raw.Close() })()
	conn.end(e.how, h.stallFor())
}

// hijack takes an HTTP/1 connection away from the server.
func (h *Handler) hijack(w http.ResponseWriter) (*wire, bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2, HTTP/3
		return nil, false
	}
	return unwrap(conn), true
}

// maxWrappers bounds the search for the TCP connection.
const maxWrappers = 16

// unwrap finds the TLS and the TCP connection below whatever listener wrappers
// have put around them: a reset needs the socket itself.
func unwrap(c net.Conn) *wire {
	w := &wire{c, c}
	for range maxWrappers {
		if t, ok := w.raw.(*tls.Conn); ok {
			w.Conn = t
		}
		inner := innerConn(w.raw)
		if inner == nil {
			break
		}
		w.raw = inner
	}
	return w
}

// innerConn looks one wrapper deep. Caddy's own wrappers have no method for it,
// but, like most, they embed the net.Conn.
func innerConn(c net.Conn) net.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		return nil
	case interface{ NetConn() net.Conn }: // as tls.Conn
		return c.NetConn()
	case interface{ Raw() net.Conn }: // as go-proxyproto
		return c.Raw()
	}
	v := reflect.Indirect(reflect.ValueOf(c))
	if v.Kind() != reflect.Struct {
		return nil
	}
	field := v.FieldByName("Conn")
	if !field.IsValid() || !field.CanInterface() {
		return nil
	}
	inner, _ := field.Interface().(net.Conn)
	return inner
}
