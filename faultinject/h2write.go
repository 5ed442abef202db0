// SPDX-License-Identifier: Apache-2.0

// This file is the writing half of an HTTP/2 connection: whole frames within
// the client's windows, and on purpose half ones and wrong ones.

package faultinject

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hopByHop are the headers that HTTP/2 does not have (RFC 9113, section 8.2.2).
var hopByHop = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"}

// encodeHeader compresses an answer's header; c.writing is held, and stays
// held until the block was sent: the blocks of a connection depend on each other.
func (c *h2Conn) encodeHeader(a answer) []byte {
	c.encoded.Reset()
	c.encodeField(":status", strconv.Itoa(a.status))
	h := a.header.Clone()
	for _, name := range hopByHop {
		h.Del(name)
	}
	for name, values := range h {
		for _, v := range values {
			c.encodeField(strings.ToLower(name), v)
		}
	}
	return c.encoded.Bytes()
}

func (c *h2Conn) encodeField(name, value string) {
	_ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) // a bytes.Buffer takes everything
}

func (c *h2Conn) sendHeader(s *h2Stream, a answer, last bool) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeBlock(s.id, c.encodeHeader(a), last)
}

// writeBlock sends a header block in as many frames as it takes; c.writing is held.
func (c *h2Conn) writeBlock(id uint32, block []byte, last bool) bool {
	n := min(len(block), h2DefaultFrame)
	err := c.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: block[:n], EndStream: last, EndHeaders: n == len(block),
	})
	for block = block[n:]; err == nil && len(block) > 0; block = block[n:] {
		n = min(len(block), h2DefaultFrame)
		err = c.fr.WriteContinuation(id, n == len(block), block[:n])
	}
	return err == nil
}

// sendHalfHeader sends the first half of a HEADERS frame. With a stall nothing
// else can be sent on the connection meanwhile, as it could not be told apart
// from the other half.
func (c *h2Conn) sendHalfHeader(s *h2Stream, a answer) {
	c.writing.Lock()
	defer c.writing.Unlock()
	var frame bytes.Buffer
	_ = http2.NewFramer(&frame, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: c.encodeHeader(a), EndHeaders: true,
	})
	_, _ = c.w.Write(frame.Bytes()[:frame.Len()/2])
	if s.fault.how == byStall {
		wait(s.ctx, c.o.cfg.StallFor)
	}
	c.breakOff(s.fault)
}

// sendBadHeader sends a header whose second field name HTTP does not allow.
func (c *h2Conn) sendBadHeader(s *h2Stream) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.encodeHeader(answer{status: http.StatusOK})
	c.encodeField("Not A Field Name", "x")
	c.writeBlock(s.id, c.encoded.Bytes(), true)
}

// sendBody sends as the windows allow. It reports whether all was sent.
func (c *h2Conn) sendBody(s *h2Stream, p []byte, last bool) bool {
	for len(p) > 0 {
		n := c.reserve(s, len(p))
		if n == 0 || !c.sendData(s.id, p[:n], last && n == len(p)) {
			return false
		}
		p = p[n:]
	}
	return true
}

func (c *h2Conn) sendData(id uint32, p []byte, last bool) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.fr.WriteData(id, last, p) == nil
}

// reserve waits until something may be sent on the stream and takes it from
// the windows. It returns 0 when the stream has ended.
func (c *h2Conn) reserve(s *h2Stream, want int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.ctx.Err() != nil {
			return 0
		}
		if n := min(int64(want), c.window, s.window, c.maxFrame); n > 0 {
			c.window -= n
			s.window -= n
			return int(n)
		}
		c.flow.Wait()
	}
}

func (c *h2Conn) sendRaw(p []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, _ = c.w.Write(p)
}

// resetStream tells the client that a stream is over, and forgets it.
func (c *h2Conn) resetStream(id uint32, code http2.ErrCode) {
	c.writing.Lock()
	_ = c.fr.WriteRSTStream(id, code)
	c.writing.Unlock()
	c.drop(id)
}

// goAway says that no more streams are taken and that all so far were processed.
func (c *h2Conn) goAway(code http2.ErrCode, why string) {
	c.mu.Lock()
	c.over = true
	last := c.lastID
	c.mu.Unlock()
	c.goAwayAfter(last, code, why)
}

func (c *h2Conn) goAwayAfter(last uint32, code http2.ErrCode, why string) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.fr.WriteGoAway(last, code, []byte(why))
}
