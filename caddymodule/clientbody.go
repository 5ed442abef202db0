// SPDX-License-Identifier: Apache-2.0

// The client's body as everybody behind the handler sees it, and those who deal
// with the request after it.

package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/failover"
)

// clientBody is a body that can be declared spent. A server's own body would
// not do: once it was read to its end, Caddy's goes on saying io.EOF, closed or
// not, and who asks next takes that for a body that is whole and empty.
type clientBody struct {
	io.ReadCloser
	touched atomic.Bool // a read has begun
	ended   atomic.Bool // there is nothing more to be read
	whole   atomic.Bool // all of it was read
	spent   atomic.Bool // what is left is for nobody
	closed  atomic.Bool // on HTTP/1, instead of the server's own body
	http1   bool        // there is a body, and it comes over HTTP/1
	taken   atomic.Int64
	length  int64                 // as the client announced it; not above 0: it did not
	broken  atomic.Pointer[error] // with which reading has ended, otherwise than in good order
	reading sync.Mutex            // held by a read, which may wait for the client: for it discard waits
}

var errBodySpent = errors.New("the request's body was read before and cannot be sent again")

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.spent.Load() {
		return 0, caddyhttp.HandlerError{StatusCode: http.StatusBadGateway, Err: errBodySpent}
	}
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.touched.Store(true)
	b.reading.Lock()
	defer b.reading.Unlock()
	n, err := b.ReadCloser.Read(p)
	taken := b.taken.Add(int64(n))
	if err == io.EOF && taken < b.length { // HTTP/3's server does not look
		err = fmt.Errorf("%w: %d bytes were announced, %d have come", failover.ErrLength, b.length, taken)
	}
	if err == io.EOF {
		b.whole.Store(true)
	} else if err != nil {
		b.broken.Store(&err)
	}
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

// failure is what reading from the client has ended with; nil while it goes on, and
// after the body's end. Who has buffered the body may know nothing of it.
func (b *clientBody) failure() error {
	if err := b.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Close implements io.Closer. A spent body is left to the server: closing it
// would wait for a read that may be under way. So is each body on HTTP/1, where to
// close means to read on for a while: if the handler ends meanwhile, net/http breaks
// that off and closes the connection with bytes unread, and the answer is lost to a
// reset. The server closes it after the handler.
func (b *clientBody) Close() error {
	if b.http1 {
		b.closed.Store(true)
		return nil
	}
	if b.spent.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// finish passes a Close on to whoever else has put something into the body's place,
// if all of it was read: then it does not read on.
func (b *clientBody) finish() {
	if b.closed.Load() && b.whole.Load() {
		_ = b.ReadCloser.Close()
	}
}

// discard reads on, up to limit bytes, and throws away what it gets; that may also
// be the rest of a spent body, from below the proxy that this one is an error
// route of. The error is io.EOF at the body's end.
func (b *clientBody) discard(limit int64) error {
	if outer, ok := b.ReadCloser.(*clientBody); ok {
		return outer.discard(limit)
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	_, err := io.CopyN(io.Discard, b.ReadCloser, limit)
	return err
}
