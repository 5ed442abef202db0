// SPDX-License-Identifier: Apache-2.0

// Conn watches one connection to an origin.

package health

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// EndKind is how a connection ended, as this side saw it first.
type EndKind uint8

// The ways in which a connection ends.
const (
	Alive      EndKind = iota // nothing has been seen yet
	EndReset                  // the peer sent a TCP reset
	EndFIN                    // the peer closed in good order
	EndTimer                  // a deadline of ours passed, or the kernel gave up sending
	EndLocal                  // this side closed it
	EndStrange                // another error
)

// End is the first thing that went wrong on a connection. Later errors only
// echo it ("use of closed network connection"), so they are not kept.
type End struct {
	Kind EndKind
	Err  error
	At   time.Time
}

// EndHook is told, once, that a connection has ended, by the goroutine that saw
// it: it must not block.
type EndHook struct{ F func() }

// tlsAlertMax is the longest write that can be a TLS alert and nothing else: 5
// bytes of record header, 8 of explicit nonce (TLS 1.2), 2 of alert and 16 of
// tag. The shortest HTTP/1 request line with its headers is longer, encrypted.
const tlsAlertMax = 31

// unknownBody says that it is not known how much of a response's body came
// together with its header.
const unknownBody = -1

// Conn is a connection to an origin that counts the bytes which pass and
// remembers how it ended. Only such a count proves that nothing of a request
// was sent: net/http reports "wrote request" before it has flushed. All methods
// may be called from several goroutines.
//
// It keeps what the wrapped connection can do: ReadFrom, CloseWrite and
// SyscallConn are passed on. Its cost is one atomic addition per call; the
// operating system is asked for more only once, when the connection ends.
type Conn struct {
	net.Conn

	sent     atomic.Int64
	received atomic.Int64
	tls      atomic.Bool // set by the first byte written
	started  atomic.Bool // whether anything was written
	end      atomic.Pointer[End]
	onEnd    atomic.Pointer[EndHook]

	// headerDue is set while the header of a response is awaited; bodySeen is
	// then how many bytes followed that header in the same read.
	headerDue atomic.Bool
	bodySeen  atomic.Int64
}

// WatchConn wraps c. Wrapping a *Conn again returns it unchanged.
func WatchConn(c net.Conn) *Conn {
	if w, ok := c.(*Conn); ok {
		return w
	}
	return &Conn{Conn: c}
}

// Unwrap finds the watched connection in c, which may be it or lie around it
// (a *tls.Conn, say). It returns nil if there is none.
func Unwrap(c net.Conn) *Conn {
	for range 8 { // deeper nesting than any that exists; guards against a cycle
		switch v := c.(type) {
		case nil:
			return nil
		case *Conn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// Sent is the number of bytes written so far that can belong to a request: on a
// TLS connection everything but alerts, encrypted.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Received is the number of bytes read so far, encrypted ones on TLS.
func (c *Conn) Received() int64 { return c.received.Load() }

// End returns the first thing that went wrong; its Kind is Alive if nothing has.
func (c *Conn) End() End {
	if e := c.end.Load(); e != nil {
		return *e
	}
	return End{}
}

// Hook makes c call h when it ends, at once if it has ended already. There is
// one hook, the latest; nil takes it away.
func (c *Conn) Hook(h *EndHook) {
	c.onEnd.Store(h)
	if h != nil && c.end.Load() != nil {
		c.callHook()
	}
}

// Unhook takes h away, if it is still there: the connection may serve another
// request by now.
func (c *Conn) Unhook(h *EndHook) { c.onEnd.CompareAndSwap(h, nil) }

func (c *Conn) callHook() {
	if h := c.onEnd.Swap(nil); h != nil {
		h.F()
	}
}

// AwaitHeader tells c that a request is about to go out, so that the next bytes
// to arrive are a response's header.
func (c *Conn) AwaitHeader() {
	c.bodySeen.Store(unknownBody)
	c.headerDue.Store(true)
}

// BodySeen returns how many bytes of the body arrived in the same read as the
// end of the header, which means that they can be read without waiting; -1 if
// that is not known (TLS, HTTP/2, long headers, interim responses).
func (c *Conn) BodySeen() int64 { return c.bodySeen.Load() }

// NetConn returns the wrapped connection.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Read reads from the origin.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.received.Add(int64(n))
		if c.headerDue.Load() && c.headerDue.CompareAndSwap(true, false) {
			c.bodySeen.Store(bodyAfterHeader(p[:n]))
		}
	}
	if err != nil {
		c.ended(err)
	}
	return n, err
}

// Write writes to the origin.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.started.Load() && len(p) > 0 && c.started.CompareAndSwap(false, true) {
		c.tls.Store(p[0] == recordTypeHandshake)
	}
	// Counted before it is done: an answer may arrive, and be judged, before
	// this goroutine runs again. Too high a count only forbids a retry.
	counted := !c.isAlert(p)
	if counted {
		c.sent.Add(int64(len(p)))
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		if counted {
			c.sent.Add(int64(n - len(p)))
		}
		c.ended(err)
	}
	return n, err
}

// recordTypeHandshake begins every TLS connection (RFC 8446 section 5.1). No
// HTTP request and no PROXY protocol header begins with it.
const recordTypeHandshake = 0x16

func (c *Conn) isAlert(p []byte) bool {
	return len(p) <= tlsAlertMax && c.tls.Load()
}

// copyBuffers are for uploads that the kernel cannot splice.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom sends all of r. Files and sockets go the kernel's short way and are
// counted at the end; other readers are counted as they are sent.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok && splices(r) {
		c.sent.Add(1) // something is under way
		n, err := rf.ReadFrom(r)
		c.sent.Add(n - 1)
		// The error may be r's own, which says nothing about this connection.
		if err != nil && tcpState(c) != tcpEstablished {
			c.ended(err)
		}
		return n, err
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(writeOnly{c}, readOnly{r}, buf[:])
}

// writeOnly and readOnly hide every other method, so that io.CopyBuffer uses
// the buffer that it was given.
type (
	writeOnly struct{ io.Writer }
	readOnly  struct{ io.Reader }
)

func splices(r io.Reader) bool {
	if l, ok := r.(*io.LimitedReader); ok {
		r = l.R
	}
	switch r.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// CloseWrite ends the sending half, if the wrapped connection can do that.
func (c *Conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the file descriptor, if there is one.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// ended remembers the first error. A deadline of this side's own is no end of
// the connection, and kept only until the peer ends it.
func (c *Conn) ended(err error) {
	before := c.end.Load()
	if before != nil && !errors.Is(before.Err, os.ErrDeadlineExceeded) {
		return
	}
	now := &End{Kind: c.endKind(err), Err: err, At: time.Now()}
	if before != nil && now.Kind != EndReset && now.Kind != EndFIN {
		return
	}
	if c.end.CompareAndSwap(before, now) {
		c.callHook()
	}
}

// endKind asks the kernel first: when a writer on another goroutine has taken
// the socket's error, the reader of a reset connection sees plain EOF.
func (c *Conn) endKind(err error) EndKind {
	switch {
	case errors.Is(err, net.ErrClosed):
		return EndLocal
	case errors.Is(err, os.ErrDeadlineExceeded), isTimedOut(err):
		return EndTimer
	}
	switch tcpState(c) {
	case tcpClose:
		return EndReset
	case tcpCloseWait:
		return EndFIN
	}
	switch {
	case isReset(err):
		return EndReset
	case errors.Is(err, io.EOF):
		return EndFIN
	}
	return EndStrange
}

// The states of TCP_INFO that tell whether and how the peer ended (linux/tcp.h,
// TCP_*).
const (
	tcpUnknown     = 0
	tcpEstablished = 1
	tcpClose       = 7
	tcpCloseWait   = 8
)

var headerEnd = []byte("\r\n\r\n")

// bodyAfterHeader counts the bytes behind the header in the first read of a
// response. An interim response (1xx) is followed by another header.
func bodyAfterHeader(p []byte) int64 {
	const statusAt = len("HTTP/1.1 ")
	if len(p) <= statusAt || p[0] != 'H' || p[statusAt] == '1' {
		return unknownBody
	}
	i := bytes.Index(p, headerEnd)
	if i < 0 {
		return unknownBody
	}
	return int64(len(p) - i - len(headerEnd))
}
