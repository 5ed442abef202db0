// SPDX-License-Identifier: Apache-2.0

// The request's body as one attempt reads it.

package caddymodule

import (
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
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
	a := b.attempt
	a.uploads.Add(1)
	a.uploadTo.Store(0)
	a.uploadFrom.Store(int64(time.Since(a.began)))
	n, err := b.SpoolReader.Read(p)
	a.uploadTo.Store(int64(time.Since(a.began)))
	a.uploads.Add(1)
	if err == io.EOF {
		a.uploadEnded()
	}
	return n, err
}

// awaited is how long the client had been silent, in the middle of its body, when the
// connection ended; or until now, if it has not.
func (a *attempt) awaited(v *connView) time.Duration {
	from, to := time.Duration(a.uploadFrom.Load()), time.Duration(a.uploadTo.Load())
	if from == 0 || a.uploaded.Load() {
		return 0
	}
	end := time.Since(a.began)
	if v != nil && v.conn != nil {
		if e := v.conn.End(); e.Kind != health.Alive {
			end = e.At.Sub(a.began)
		}
	}
	if to != 0 && to < end { // something came after all
		return 0
	}
	return max(0, end-from)
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
