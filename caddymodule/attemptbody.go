// SPDX-License-Identifier: Apache-2.0

// The request's body as one attempt reads it.

package caddymodule

import (
	"io"
	"reflect"
	"sync"

	"github.com/resetguard/caddy-resetguard/failover"
)

// attemptBody is one attempt's view of the request's body.
type attemptBody struct {
	*failover.SpoolReader
	attempt *attempt
}

func (b *attemptBody) Read(p []byte) (int, error) {
	if !b.attempt.mayRepeat() {
		b.attempt.ex.spool.Abandon()
	}
	b.attempt.uploads.Add(1)
	n, err := b.SpoolReader.Read(p)
	b.attempt.uploads.Add(1)
	if err == io.EOF {
		b.attempt.uploadEnded()
	}
	return n, err
}

// bufferedBody is a body of which the proxy has made a reader for this attempt.
type bufferedBody struct {
	io.ReadCloser
	attempt *attempt
	mu      sync.Mutex // held over a read, which is from memory
	over    bool       // guarded by mu
}

// leaveBuffer makes the attempt read nothing more of a buffer of the proxy's, and
// waits for a read that is under way: net/http may go on sending after the round
// trip, and the buffer's next user is another request.
func (a *attempt) leaveBuffer() {
	if b := a.buffered; b != nil {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
	} else if r := a.reader.Load(); r != nil && a.ex.buffered {
		_ = r.Close()
		a.ex.spool.Settle()
	}
}

func (b *bufferedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, failover.ErrFenced
	}
	b.attempt.uploads.Add(1)
	n, err := b.ReadCloser.Read(p)
	b.attempt.uploads.Add(1)
	if err == io.EOF {
		b.attempt.uploadEnded()
	}
	return n, err
}

// sameBody tells whether a is b. Bodies of other modules might not be comparable,
// which is taken for the same.
func sameBody(a, b io.ReadCloser) bool {
	return a == nil || !reflect.ValueOf(a).Comparable() || a == b
}
