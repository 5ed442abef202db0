// SPDX-License-Identifier: Apache-2.0

// This file is the life of one HTTP/2 stream, and the faults that end it or
// the connection.

package faultinject

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// h2Stream is one request. Until it is started it belongs to the reader, then
// to its own goroutine.
type h2Stream struct {
	id     uint32
	before uint32 // the newest stream when this one came
	req    *http.Request
	up     *upload
	fault  entry
	ctx    context.Context // ends when the client resets the stream
	cancel context.CancelFunc

	uploadLeft int64 // bytes of the request's body before inUpload strikes

	started bool  // written by the reader with h2Conn.mu held
	window  int64 // what we may send; guarded by h2Conn.mu
}

// newStream makes a stream; c.mu is held.
func (c *h2Conn) newStream(f *http2.MetaHeadersFrame) *h2Stream {
	s := &h2Stream{id: f.StreamID, up: c.o.newUpload(), window: c.firstFlow}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	r := &http.Request{
		Method:        f.PseudoValue("method"),
		Host:          f.PseudoValue("authority"),
		RequestURI:    f.PseudoValue("path"),
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        make(http.Header),
		ContentLength: -1,
		Body:          http.NoBody,
		RemoteAddr:    c.w.RemoteAddr().String(),
	}
	for _, h := range f.RegularFields() {
		r.Header.Add(h.Name, h.Value)
	}
	if n, err := strconv.ParseInt(r.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		r.ContentLength = n
	}
	if f.StreamEnded() {
		r.ContentLength = 0
	}
	// What cannot be parsed is answered like any other path.
	if r.URL, _ = url.ParseRequestURI(r.RequestURI); r.URL == nil {
		r.URL = &url.URL{Path: "/"}
	}
	if t, ok := c.w.Conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		r.TLS = &state
	}
	s.req = r.WithContext(s.ctx)
	return s
}

func (c *h2Conn) start(s *h2Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startLocked(s)
}

// startLocked lets a stream whose request is complete be answered.
func (c *h2Conn) startLocked(s *h2Stream) {
	if s.started {
		return
	}
	s.started = true
	c.wg.Go(func() {
		c.serveStream(s)
		c.close(s)
	})
}

func (c *h2Conn) serveStream(s *h2Stream) {
	if s.fault.at != never {
		c.awaitSettled(s)
	}
	if s.fault.at == afterRequest && s.fault.how != byStatus {
		c.answerBadly(s)
		return
	}
	a, ok := c.o.answer(s.req, s.up, s.fault)
	if !ok {
		c.resetStream(s.id, http2.ErrCodeInternal)
		return
	}
	switch s.fault.at {
	case inHeaders:
		c.sendHalfHeader(s, a)
	case inBody:
		c.sendPart(s, a)
	default:
		if empty := len(a.body) == 0; c.sendHeader(s, a, empty) && !empty {
			c.sendBody(s, a.body, true)
		}
	}
}

// sendPart sends a part of the answer. Only after a graceful GOAWAY comes the rest.
func (c *h2Conn) sendPart(s *h2Stream, a answer) {
	part := a.cut(c.o.cfg.After)
	if !c.sendHeader(s, a, false) || !c.sendBody(s, a.body[:part], false) {
		return
	}
	switch s.fault.how {
	case byGoAway:
		c.goAway(http2.ErrCodeNo, "")
		if rest := a.body[part:]; len(rest) == 0 {
			c.sendData(s.id, nil, true)
		} else {
			c.sendBody(s, rest, true)
		}
	case byGoAwayCalm:
		c.goAway(http2.ErrCodeEnhanceYourCalm, "injected fault")
		c.w.finish()
	default:
		c.interrupt(s)
	}
}

// awaitSettled waits for the last frame that a client sends unasked. A client
// that writes when the connection breaks learns of it by the write as often as
// by the read, and may report either.
func (c *h2Conn) awaitSettled(s *h2Stream) {
	ctx, cancel := context.WithTimeout(s.ctx, lingerFor)
	defer cancel()
	select {
	case <-c.settled:
	case <-ctx.Done():
	}
}

// answerBadly does something that is no answer at all.
func (c *h2Conn) answerBadly(s *h2Stream) {
	switch s.fault.how {
	case byGarbage:
		c.sendRaw([]byte(h1Garbage))
		c.breakOff(s.fault)
	case byBadHeader:
		c.sendBadHeader(s)
	default:
		c.interrupt(s)
	}
}

// interrupt ends the stream, or the connection, where it is.
func (c *h2Conn) interrupt(s *h2Stream) {
	switch s.fault.how {
	case byRSTStream:
		c.resetStream(s.id, s.fault.code)
	case byStall:
		// The stream alone: others go on beside it.
		wait(s.ctx, c.o.cfg.StallFor)
		c.resetStream(s.id, http2.ErrCodeCancel)
	default:
		c.breakOff(s.fault)
	}
}

// breakOff ends the connection with all its streams.
func (c *h2Conn) breakOff(e entry) {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.w.end(e.how, 0)
}

// endByGoAway tells the client that there will be no more streams. The calm
// one closes at once and may have processed this stream; the graceful one has
// not, and lets the streams before it end.
func (c *h2Conn) endByGoAway(s *h2Stream) {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	if s.fault.how == byGoAwayCalm {
		c.goAwayAfter(s.id, http2.ErrCodeEnhanceYourCalm, "injected fault")
		c.w.finish()
		return
	}
	c.goAwayAfter(s.before, http2.ErrCodeNo, "")
	c.close(s)
}

// drop forgets a stream that the client has reset.
func (c *h2Conn) drop(id uint32) {
	c.mu.Lock()
	s := c.streams[id]
	c.mu.Unlock()
	if s != nil {
		c.close(s)
	}
}

// close takes a stream out of the books. The last one of a connection that
// takes no more ends it.
func (c *h2Conn) close(s *h2Stream) {
	s.cancel()
	c.mu.Lock()
	_, open := c.streams[s.id]
	delete(c.streams, s.id)
	empty := open && len(c.streams) == 0
	over, served := c.over, c.served
	c.flow.Broadcast()
	c.mu.Unlock()
	switch {
	case empty && over:
		c.w.finish()
	case empty && s.fault.at == whenIdle:
		c.wg.Go(func() { c.breakIdle(s.fault, served) })
	}
}

// breakIdle breaks the connection if no stream has come for so long.
func (c *h2Conn) breakIdle(e entry, served int) {
	t := time.NewTimer(c.o.cfg.IdleFor)
	defer t.Stop()
	select {
	case <-c.ctx.Done():
		return
	case <-t.C:
	}
	c.mu.Lock()
	idle := c.served == served
	c.mu.Unlock()
	if idle {
		c.breakOff(e)
	}
}
