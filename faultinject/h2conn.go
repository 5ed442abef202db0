// SPDX-License-Identifier: Apache-2.0

// This file is the reading half of an HTTP/2 connection: its frames, in order,
// in one goroutine. Streams are served in goroutines of their own.

package faultinject

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	h2MaxStreams   = 250     // open at a time; more are refused
	h2Window       = 1 << 20 // what a client may send before we acknowledge it
	h2HeaderTable  = 4096    // RFC 9113, section 6.5.2: the initial value
	h2DefaultFrame = 16384   // likewise
	h2DefaultFlow  = 65535   // likewise
)

// h2Conn is one connection.
type h2Conn struct {
	o      *Origin
	w      *wire
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	fr     *http2.Framer  // reading: only serve; writing: with writing held
	wg     sync.WaitGroup // goroutines of streams and of the idle timer

	settled   chan struct{} // closed when the client has acknowledged our settings
	isSettled bool          // the same, for the reader

	writing sync.Mutex // guards what writes frames; never taken with mu held
	enc     *hpack.Encoder
	encoded bytes.Buffer

	mu        sync.Mutex // guards what follows
	flow      sync.Cond  // some window grew, or a stream ended
	streams   map[uint32]*h2Stream
	lastID    uint32 // of the newest stream of the client
	served    int    // streams begun
	window    int64  // what we may send on the connection
	firstFlow int64  // what we may send on a new stream
	maxFrame  int64
	over      bool // no new streams are taken
}

func newH2Conn(ctx context.Context, cancel context.CancelFunc, o *Origin, w *wire) *h2Conn {
	c := &h2Conn{
		o: o, w: w, ctx: ctx, cancel: cancel,
		fr:        http2.NewFramer(w, bufio.NewReader(w)),
		settled:   make(chan struct{}),
		streams:   make(map[uint32]*h2Stream),
		window:    h2DefaultFlow,
		firstFlow: h2DefaultFlow,
		maxFrame:  h2DefaultFrame,
	}
	c.flow.L = &c.mu
	c.enc = hpack.NewEncoder(&c.encoded)
	c.fr.ReadMetaHeaders = hpack.NewDecoder(h2HeaderTable, nil)
	return c
}

func (c *h2Conn) serve() {
	// In this order: end the streams, wait for them, and let go of the connection.
	defer c.w.raw.Close()
	defer c.wg.Wait()
	defer c.abandon()

	if !c.greet() {
		c.w.finish()
		return
	}
	for {
		f, err := c.fr.ReadFrame()
		var bad http2.StreamError
		switch {
		case errors.As(err, &bad):
			c.resetStream(bad.StreamID, bad.Code)
		case err != nil:
			var broken http2.ConnectionError
			if errors.As(err, &broken) {
				c.goAway(http2.ErrCode(broken), "")
				c.w.finish()
			}
			return
		default:
			c.handle(f)
		}
	}
}

// abandon ends all streams: nobody is left to talk to.
func (c *h2Conn) abandon() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.flow.Broadcast()
}

// greet exchanges the preface.
func (c *h2Conn) greet() bool {
	_ = c.w.SetReadDeadline(time.Now().Add(handshakeFor))
	defer func() { _ = c.w.SetReadDeadline(time.Time{}) }()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.w, preface); err != nil || string(preface) != http2.ClientPreface {
		return false
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.fr.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: h2MaxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2Window},
	)
	if err != nil {
		return false
	}
	return c.fr.WriteWindowUpdate(0, h2Window-h2DefaultFlow) == nil
}

// handle does what one frame asks for. A write that fails needs no care: the
// next read fails as well.
func (c *h2Conn) handle(f http2.Frame) {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		c.handleHeaders(f)
	case *http2.DataFrame:
		c.handleData(f)
	case *http2.SettingsFrame:
		c.handleSettings(f)
	case *http2.WindowUpdateFrame:
		c.handleWindow(f)
	case *http2.RSTStreamFrame:
		c.drop(f.StreamID)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.writing.Lock()
			defer c.writing.Unlock()
			_ = c.fr.WritePing(true, f.Data)
		}
	}
}

func (c *h2Conn) handleSettings(f *http2.SettingsFrame) {
	if f.IsAck() {
		if !c.isSettled {
			c.isSettled = true
			close(c.settled)
		}
		return
	}
	c.mu.Lock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams { // RFC 9113, section 6.9.2
			s.window += int64(v) - c.firstFlow
		}
		c.firstFlow = int64(v)
	}
	if v, ok := f.Value(http2.SettingMaxFrameSize); ok {
		c.maxFrame = int64(v)
	}
	c.flow.Broadcast()
	c.mu.Unlock()

	c.writing.Lock()
	defer c.writing.Unlock()
	if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.enc.SetMaxDynamicTableSizeLimit(min(v, h2HeaderTable))
	}
	_ = c.fr.WriteSettingsAck()
}

func (c *h2Conn) handleWindow(f *http2.WindowUpdateFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		c.window += int64(f.Increment)
	} else if s := c.streams[f.StreamID]; s != nil {
		s.window += int64(f.Increment)
	}
	c.flow.Broadcast()
}

func (c *h2Conn) handleHeaders(f *http2.MetaHeadersFrame) {
	s, refused := c.open(f)
	if refused {
		c.resetStream(f.StreamID, http2.ErrCodeRefusedStream)
	}
	if s == nil {
		return
	}
	e := s.fault
	switch {
	case e.at == onHeader && (e.how == byGoAway || e.how == byGoAwayCalm):
		c.endByGoAway(s)
	case e.at == onHeader && e.how == byRSTStream:
		c.resetStream(s.id, e.code)
	case e.at == onHeader || e.at == onReuse:
		c.breakOff(e)
	case f.StreamEnded():
		c.start(s)
	case e.at == inUpload:
		s.uploadLeft = uploadCut(c.o.cfg.After, s.req.ContentLength)
	}
}

// open makes a stream of a header. Trailers end theirs and open none.
func (c *h2Conn) open(f *http2.MetaHeadersFrame) (s *h2Stream, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[f.StreamID]; s != nil && f.StreamEnded() {
		c.startLocked(s)
		return nil, false
	}
	// A stream that is old or even is a mistake, one after the end was told is
	// the client's loss: it is told that it was not processed by GOAWAY.
	if c.over || f.StreamID <= c.lastID || f.StreamID%2 == 0 {
		return nil, false
	}
	if len(c.streams) >= h2MaxStreams {
		c.lastID = f.StreamID
		return nil, true
	}
	s = c.newStream(f)
	s.before, c.lastID = c.lastID, f.StreamID
	s.fault = c.o.begin(s.req.Header.Get("X-Request-Id"), c.served > 0)
	c.served++
	c.streams[s.id] = s
	return s, false
}

func (c *h2Conn) handleData(f *http2.DataFrame) {
	c.mu.Lock()
	s := c.streams[f.StreamID]
	c.mu.Unlock()
	c.acknowledge(f, s != nil)
	if s == nil || s.started { // reset meanwhile, or a client that goes on after its end
		return
	}
	data := f.Data()
	if s.fault.at == inUpload {
		data = data[:min(int64(len(data)), s.uploadLeft)]
		s.uploadLeft -= int64(len(data))
	}
	_, _ = s.up.Write(data)
	switch {
	case s.fault.at == inUpload && (s.uploadLeft == 0 || f.StreamEnded()):
		c.breakOff(s.fault)
	case f.StreamEnded():
		c.start(s)
	}
}

// acknowledge gives the client back the window that a frame took.
func (c *h2Conn) acknowledge(f *http2.DataFrame, open bool) {
	n := f.Header().Length
	if n == 0 {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.fr.WriteWindowUpdate(0, n)
	if open && !f.StreamEnded() {
		_ = c.fr.WriteWindowUpdate(f.StreamID, n)
	}
}
