// SPDX-License-Identifier: Apache-2.0

// SpoolReader: one attempt's view of a Spool.

package failover

import (
	"io"
	"net/http"
	"slices"
)

// SpoolReader reads the body for one attempt. Read is for one goroutine at a time;
// Close may be called by any, at any time.
type SpoolReader struct {
	spool   *Spool
	trailer http.Header
	off     int64 // how far it has read; guarded by the spool's lock
}

// Read gives the next bytes of the body: those that are there, or, after waiting,
// those that the client sends. It gives io.EOF or the client's error where the
// body ends, ErrFenced as soon as the attempt is over, and ErrNotKept if bytes
// that were kept cannot be read back.
func (r *SpoolReader) Read(p []byte) (int, error) {
	s := r.spool
	s.mu.Lock()
	defer s.unlock()
	for {
		switch {
		case s.live != r:
			return 0, ErrFenced
		case len(p) == 0:
			return 0, nil
		case r.off < s.received:
			return r.takeLocked(p)
		case s.end != nil:
			return r.passLocked(0)
		case !s.flight:
			s.flight = true
			go s.fetch()
		}
		s.cond.Wait()
	}
}

// takeLocked reads bytes that are there; those in the file without the lock.
func (r *SpoolReader) takeLocked(p []byte) (int, error) {
	s := r.spool
	if at := r.off - (s.received - int64(len(s.window))); at >= 0 {
		return r.passLocked(copy(p, s.window[at:]))
	}
	p = p[:min(int64(len(p)), s.kept-r.off)]
	if room := s.cfg.Memory - r.off; room > 0 {
		p = p[:min(int64(len(p)), room)]
		s.mem.readAt(p, r.off)
		return r.passLocked(len(p))
	}
	f, off := s.file.hold(), r.off-s.cfg.Memory
	s.unlock()
	err := f.readAt(p, off)
	f.letGo()
	s.mu.Lock()
	if err != nil && s.live == r {
		s.overflowLocked(err)
		s.lost = true
		return 0, s.notKeptLocked()
	}
	return r.passLocked(len(p))
}

// passLocked counts n bytes as read, if the reader is still live, and says
// whether they were the last.
func (r *SpoolReader) passLocked(n int) (int, error) {
	s := r.spool
	if s.live != r {
		return 0, ErrFenced
	}
	r.off += int64(n)
	s.releasePassedLocked()
	if r.off < s.received || s.end == nil {
		return n, nil
	}
	if s.end == io.EOF {
		r.fillTrailerLocked()
	}
	return n, s.end
}

// Close fences this reader and so ends a Read of it that is waiting. It never
// closes, nor waits for, the client's body. HTTP/1's RoundTrip reports a fault
// only when the Read under way has ended: who notices the fault otherwise, or
// cancels the attempt, calls Close so that it does not wait for the client.
func (r *SpoolReader) Close() error {
	s := r.spool
	s.mu.Lock()
	defer s.unlock()
	if s.live == r {
		s.fenceLocked(nil)
		s.releasePassedLocked()
	}
	return nil
}

// Trailer returns the map to send with this attempt: the first attempt's is the
// one given to NewSpool; a later one's is its own, with the same announced keys,
// and is filled in before Read returns io.EOF.
func (r *SpoolReader) Trailer() http.Header { return r.trailer }

// trailerLocked returns the map for the reader that is about to be made.
func (s *Spool) trailerLocked() http.Header {
	if s.readers == 0 || s.trailer == nil {
		return s.trailer
	}
	own := make(http.Header, len(s.announced))
	for _, k := range s.announced {
		own[k] = nil
	}
	return own
}

// fillTrailerLocked copies the trailer for all but the first reader. The body
// has ended, so no read of src can be changing the original.
func (r *SpoolReader) fillTrailerLocked() {
	if r == &r.spool.first || r.trailer == nil {
		return
	}
	clear(r.trailer)
	for k, v := range r.spool.trailer {
		r.trailer[k] = slices.Clone(v)
	}
}
