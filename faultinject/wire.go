// SPDX-License-Identifier: Apache-2.0

// This file breaks connections in exact ways.

package faultinject

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// lingerFor bounds how long a connection that was closed in good order waits
// for the peer to close it, too.
const lingerFor = 2 * time.Second

// wire is one connection: what HTTP is spoken on, and the TCP connection below.
type wire struct {
	net.Conn          // with TLS, if there is any
	raw      net.Conn // without
}

// reset delivers what was written so far and then sends a TCP RST. Where the
// connection is not TCP, it is closed.
func (w *wire) reset() {
	awaitSent(w.raw)
	if l, ok := w.raw.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails only on a connection that is gone
	}
	_ = w.raw.Close()
}

// finish closes in good order: close_notify if there is TLS, FIN, and then
// reading on, because a close with unread bytes would send a RST.
func (w *wire) finish() {
	defer w.raw.Close()
	_ = w.raw.SetDeadline(time.Now().Add(lingerFor))
	if t, ok := w.Conn.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
	if c, ok := w.raw.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, w.raw)
}

// stall says nothing for so long, or until the peer is gone or the connection
// is closed, and then closes it.
func (w *wire) stall(d time.Duration) {
	_ = w.raw.SetReadDeadline(time.Now().Add(d))
	_, _ = io.Copy(io.Discard, w.raw)
	w.finish()
}

// end does to the connection what the action says.
func (w *wire) end(how action, stallFor time.Duration) {
	switch how {
	case byReset:
		w.reset()
	case byStall:
		w.stall(stallFor)
	default:
		w.finish()
	}
}
