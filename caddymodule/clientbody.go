// SPDX-License-Identifier: Apache-2.0

// The client's body as everybody behind the handler sees it, and those who deal
// with the request after it.

package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
	taken   atomic.Int64
}

var errBodySpent = errors.New("the request's body was read before and cannot be sent again")

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.spent.Load() {
		return 0, caddyhttp.HandlerError{StatusCode: http.StatusBadGateway, Err: errBodySpent}
	}
	b.touched.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.taken.Add(int64(n))
	if err == io.EOF {
		b.whole.Store(true)
	}
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

// Close implements io.Closer. A spent body is left to the server: closing it
// would wait for a read that may be under way.
func (b *clientBody) Close() error {
	if b.spent.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}
