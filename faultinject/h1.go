// SPDX-License-Identifier: Apache-2.0

// This file serves one HTTP/1 connection and breaks it where its fault says.

package faultinject

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// h1Conn serves the requests of a connection one after another.
type h1Conn struct {
	o      *Origin
	w      *wire
	br     *bufio.Reader
	ctx    context.Context // ends with the connection
	served int
}

func newH1Conn(ctx context.Context, o *Origin, w *wire) *h1Conn {
	return &h1Conn{o: o, w: w, br: bufio.NewReader(w), ctx: ctx}
}

func (c *h1Conn) serve() {
	for idle := (entry{}); c.await(idle); c.served++ {
		req, err := http.ReadRequest(c.br)
		if err != nil {
			c.w.finish()
			return
		}
		e := c.o.begin(req.Header.Get("X-Request-Id"), c.served > 0)
		if !c.serveRequest(req, e) {
			return
		}
		idle = e
	}
}

// await waits for the first byte of a request. With a fault for idle
// connections it breaks the connection when none comes.
func (c *h1Conn) await(idle entry) bool {
	if idle.at == whenIdle {
		_ = c.w.SetReadDeadline(time.Now().Add(c.o.cfg.IdleFor))
	}
	_, err := c.br.Peek(1)
	_ = c.w.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		return true
	case idle.at == whenIdle && errors.Is(err, os.ErrDeadlineExceeded):
		c.w.end(idle.how, 0)
	default:
		c.w.finish()
	}
	return false
}

// serveRequest reports whether the connection can take another request. If
// not, it has dealt with the connection.
func (c *h1Conn) serveRequest(req *http.Request, e entry) bool {
	if e.at == onHeader || e.at == onReuse {
		c.w.end(e.how, c.o.cfg.StallFor)
		return false
	}
	up := c.o.newUpload()
	if !c.receive(req, up, e) {
		return false
	}
	if e.at == afterRequest && e.how != byStatus {
		c.answerBadly(e)
		return false
	}
	req = req.WithContext(c.ctx)
	req.RemoteAddr = c.w.RemoteAddr().String()
	if t, ok := c.w.Conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		req.TLS = &state
	}
	a, ok := c.o.answer(req, up, e)
	if !ok {
		c.w.finish()
		return false
	}
	return c.send(req, a, e)
}

// receive reads the request's body, or a part of it if the fault says so.
func (c *h1Conn) receive(req *http.Request, up *upload, e entry) bool {
	if req.ContentLength == 0 {
		return true
	}
	if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
		_, _ = io.WriteString(c.w, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	if e.at == inUpload {
		// A read error of the client's making ends the connection as well.
		_, _ = io.CopyN(up, req.Body, uploadCut(c.o.cfg.After, req.ContentLength))
		c.w.end(e.how, c.o.cfg.StallFor)
		return false
	}
	if _, err := io.Copy(up, req.Body); err != nil {
		c.w.finish()
		return false
	}
	return true
}

// answerBadly does something that is no answer at all.
func (c *h1Conn) answerBadly(e entry) {
	switch e.how {
	case byGarbage:
		_, _ = io.WriteString(c.w, h1Garbage)
	case byBadHeader:
		_, _ = io.WriteString(c.w, h1BadHeader)
	}
	c.w.end(e.how, c.o.cfg.StallFor)
}

// send writes the answer, or a part of it if the fault says so.
func (c *h1Conn) send(req *http.Request, a answer, e entry) bool {
	head, last := a.h1Head(req)
	switch e.at {
	case inHeaders:
		_, _ = c.w.Write(half(head))
	case inBody:
		_, _ = (&net.Buffers{head, a.h1Body(req, a.cut(c.o.cfg.After))}).WriteTo(c.w)
	default:
		if _, err := (&net.Buffers{head, a.h1Body(req, len(a.body))}).WriteTo(c.w); err == nil && !last {
			return true
		}
	}
	c.w.end(e.how, c.o.cfg.StallFor)
	return false
}
