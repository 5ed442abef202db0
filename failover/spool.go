// SPDX-License-Identifier: Apache-2.0

// Spool keeps a request body while it streams on to the origin, so that it can
// be sent again, from its first byte, to another one.

package failover

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ErrFenced is what a SpoolReader gives once its attempt is over.
var ErrFenced = errors.New("the attempt that was reading this request body is over")

// ErrNotKept means that bytes of the request body that were read from the
// client are gone, so it cannot be sent again from its start.
var ErrNotKept = errors.New("the request body is not kept")

// ErrLength means that the client's body is not as long as its Content-Length. What
// there is of it is no whole request, and no origin's to judge. (Of the servers that
// read bodies, HTTP/3's does not find out by itself that one is too short.)
var ErrLength = errors.New("the request body is not as long as its Content-Length")

// SpoolConfig bounds what a Spool keeps. The zero value keeps nothing.
type SpoolConfig struct {
	Length int64  // of the body, as the client declared it; 0 or less: it did not
	Memory int64  // bytes kept in memory
	File   int64  // bytes kept in a temporary file when memory is full; 0: no file
	Dir    string // where the file is made; empty: the system's directory

	// Budget bounds what this and other spools keep together; nil: no bound.
	Budget *SpoolBudget
}

func (c SpoolConfig) limit() int64 { return c.Memory + c.File }

// Spool guarantees that every reader it hands out gives the client's body from
// the first byte on, without a gap and without a byte twice, or an error; and
// that a reader whose attempt is over returns at once, even from a Read that
// waits for a silent client.
//
// Both are needed because net/http reads the body in a goroutine of its own: it
// may still be at it after RoundTrip has returned an error, and otherwise
// RoundTrip waits for it (HTTP/1 until the read ends by itself, HTTP/2 trusting
// that Close ends it). So each attempt has its own reader, at most one of which
// is live; a new one fences off the one before. The client's body is read by a
// goroutine that exists for one such read, on demand, into a buffer of the
// spool. What a read brings after its attempt is over belongs to the spool and
// is there for the next attempt. Reads of the client's body never overlap, and
// no lock is held over one. The spool and its readers never close that body.
//
// Bound: Memory bytes in pooled chunks (and at most 32 KiB for the rounding),
// File bytes in a file, and the buffer: 4 KiB, or 32 KiB while the client fills
// it. Only the client, by sending, makes it grow. If the body is longer the
// spool overflows: it lets go of what the live reader has passed, and the rest
// goes through the buffer only.
type Spool struct {
	src       io.Reader
	trailer   http.Header // src fills it in when it ends; only read after that
	announced []string    // the keys that trailer had at first
	cfg       SpoolConfig

	mu       sync.Mutex
	cond     sync.Cond    // signals: a flight has ended, a reader was fenced
	live     *SpoolReader // the one reader that is not fenced; nil between attempts
	first    SpoolReader  // the first attempt's, here to save an allocation
	readers  int          // handed out so far
	received int64        // bytes read from src
	end      error        // io.EOF or the error that src ended with
	overflow error        // why keeping ended, unless it was wanted

	keeping bool // bytes are to be kept after they were passed
	lost    bool // a byte that was received is not there any more
	closed  bool
	filled  bool // the last read filled its buffer: the client sends fast
	flight  bool // src is being read, or what it gave before is being stored

	// The bytes received last are in window. While the body is whole all those
	// before it, kept many, are in mem and file. Window is stored only when src
	// is read again, so a body that comes in one read is never copied there.
	window []byte
	buf    []byte // holds window; from a pool, and in a flight not to be given back
	kept   int64
	mem    spoolMemory
	file   *spoolFile
	// What was taken from the budget for mem and file.
	reservedMemory, reservedFile int64

	unwanted *spoolFile // to be let go of when the lock is
}

// NewSpool makes a spool over src, which from now on only the spool reads and
// its owner closes, after the spool. Trailer is the map that src fills in before
// it returns io.EOF; it may be nil.
func NewSpool(src io.ReadCloser, trailer http.Header, cfg SpoolConfig) *Spool {
	cfg.Memory = max(cfg.Memory, 0)
	cfg.File = min(max(cfg.File, 0), math.MaxInt64-cfg.Memory)
	s := &Spool{src: src, trailer: trailer, cfg: cfg, keeping: cfg.limit() > 0}
	s.cond.L = &s.mu
	for k := range trailer {
		s.announced = append(s.announced, k)
	}
	return s
}

// Reader returns a reader from the first byte on for a new attempt, and fences
// the one before. It fails with ErrNotKept if the beginning is not there.
func (s *Spool) Reader() (*SpoolReader, error) {
	s.mu.Lock()
	defer s.unlock()
	if s.lost {
		return nil, s.notKeptLocked()
	}
	r := &s.first
	if s.readers > 0 {
		r = new(SpoolReader)
	}
	r.spool, r.trailer = s, s.trailerLocked()
	s.readers++
	s.fenceLocked(r)
	return r, nil
}

// Whole reports whether the body can be sent from its first byte: nothing of it
// was read yet, or everything read so far is still there.
func (s *Spool) Whole() bool {
	s.mu.Lock()
	defer s.unlock()
	return !s.lost
}

// Abandon stops keeping: what the live reader has passed is released, now and
// from now on; if there is none everything is. A body of which nothing has been
// read stays whole until a live reader takes its first bytes.
func (s *Spool) Abandon() {
	s.mu.Lock()
	defer s.unlock()
	s.keeping = false
	s.lost = s.lost || s.live == nil && s.received > 0
	s.releasePassedLocked()
}

// Overflow returns why bytes that should have been kept could not be (more than
// the limits, a file that cannot be written), nil if there was no such need.
func (s *Spool) Overflow() error {
	s.mu.Lock()
	defer s.unlock()
	return s.overflow
}

// SourceErr returns the error that reading from the client ended with, just as
// it was; nil while there is none, and after io.EOF.
func (s *Spool) SourceErr() error {
	s.mu.Lock()
	defer s.unlock()
	return s.sourceErrLocked()
}

// SourceErrWithin is SourceErr after a read of the client that is under way, for which
// it waits so long: what has ended the request may be about to end that read.
func (s *Spool) SourceErrWithin(patience time.Duration) error {
	s.mu.Lock()
	defer s.unlock()
	if s.flight {
		late := false
		timer := time.AfterFunc(patience, func() {
			s.mu.Lock()
			late = true
			s.mu.Unlock()
			s.cond.Broadcast()
		})
		defer timer.Stop()
		for s.flight && !late && !s.closed {
			s.cond.Wait()
		}
	}
	return s.sourceErrLocked()
}

// Untouched reports whether nothing was read from the client, and nothing is
// being read: somebody else may still read all of the body.
func (s *Spool) Untouched() bool {
	s.mu.Lock()
	defer s.unlock()
	return s.received == 0 && s.end == nil && !s.flight
}

// Ended reports whether the client's body has been read to its end.
func (s *Spool) Ended() bool {
	s.mu.Lock()
	defer s.unlock()
	return s.end != nil && !s.flight
}

// Received returns how many bytes were read from the client.
func (s *Spool) Received() int64 {
	s.mu.Lock()
	defer s.unlock()
	return s.received
}

// Drain reads what the client still sends and throws it away, at most limit
// bytes, so that closing the connection after an early answer does not reset it.
// It fences the live reader, releases what is kept, and waits for a read under
// way, which does not count (a limit of 0 does only this). It blocks for as long
// as the client is silent, unless a read deadline of the connection ends that.
// It returns the number of bytes drained and, if that ended otherwise than with
// io.EOF or the limit, why.
func (s *Spool) Drain(limit int64) (int64, error) {
	s.giveUp()
	s.mu.Lock()
	defer s.unlock()
	var drained int64
	for {
		switch {
		case s.closed:
			return drained, ErrFenced
		case s.flight:
			s.cond.Wait()
		case drained >= limit || s.end != nil:
			return drained, s.sourceErrLocked()
		default:
			drained += s.drainLocked(limit - drained)
		}
	}
}

// Settle waits for a read of src that is under way. It blocks for as long as src
// does: it is for sources that do not.
func (s *Spool) Settle() {
	s.mu.Lock()
	defer s.unlock()
	for s.flight {
		s.cond.Wait()
	}
}

// drainLocked reads once from src, without the lock.
func (s *Spool) drainLocked(limit int64) int64 {
	s.flight = true
	defer s.landLocked()
	s.resizeLocked(spoolChunk)
	return int64(s.readLocked(s.buf[:min(limit, spoolChunk)]))
}

// giveUp ends all attempts and keeping.
func (s *Spool) giveUp() {
	s.mu.Lock()
	defer s.unlock()
	s.keeping, s.lost = false, true
	s.fenceLocked(nil)
	s.releasePassedLocked()
}

// Close fences the live reader and frees memory and file. No read of src begins
// any more; one that is under way ends when src lets it, and its bytes are
// dropped. Close waits for nothing and may be called twice.
func (s *Spool) Close() {
	s.mu.Lock()
	s.closed = true
	s.unlock()
	s.giveUp()
}

// unlock ends a critical section, and closes a file that it made superfluous:
// that takes time, so not under the lock.
func (s *Spool) unlock() {
	f := s.unwanted
	s.unwanted = nil
	s.mu.Unlock()
	f.letGo()
}

// fenceLocked makes r, which may be nil, the live reader instead of what was.
func (s *Spool) fenceLocked(r *SpoolReader) {
	s.live = r
	s.cond.Broadcast()
}

func (s *Spool) sourceErrLocked() error {
	if s.end == io.EOF {
		return nil
	}
	return s.end
}

func (s *Spool) notKeptLocked() error {
	why := s.overflow
	if why == nil {
		why = errors.New("keeping it was given up")
	}
	return fmt.Errorf("%w: %d bytes were read from the client, at most %d are kept: %w",
		ErrNotKept, s.received, s.cfg.limit(), why)
}

// fetch is one flight, in a goroutine of its own: it stores what src gave last
// and reads on, if the live reader still wants that.
func (s *Spool) fetch() {
	s.mu.Lock()
	defer s.unlock()
	defer s.landLocked()
	size := spoolFirst
	if s.filled {
		size = spoolChunk
	}
	if s.keeping && len(s.window) > 0 {
		s.storeWindowLocked()
	}
	if s.live == nil || s.live.off < s.received {
		return // fenced meanwhile: the next attempt may still need the window
	}
	s.lost = s.lost || len(s.window) > 0
	s.window = nil
	s.releasePassedLocked()
	s.resizeLocked(size)
	s.readLocked(s.buf)
}

// readLocked reads from src without the lock, in a flight. Afterwards what came
// is in the window.
func (s *Spool) readLocked(p []byte) int {
	n, err := s.readUnlocked(p)
	filled := n == len(p)
	if want := s.cfg.Length - s.received; s.cfg.Length > 0 && (int64(n) > want || int64(n) < want && err == io.EOF) {
		err = fmt.Errorf("%w: %d bytes were announced, %d have come", ErrLength, s.cfg.Length, s.received+int64(n))
		n = int(min(int64(n), want))
	}
	s.window, s.end, s.filled = p[:n], err, filled
	s.received += int64(n)
	if err == io.EOF {
		dropForbidden(s.trailer)
	}
	if s.keeping && s.received > s.cfg.limit() {
		s.overflowLocked(fmt.Errorf("it is longer than the %d bytes that may be kept", s.cfg.limit()))
	}
	return n
}

// dropForbidden takes out of a trailer what none may have (RFC 9110 section 6.5.1):
// net/http's server lets it through, and an HTTP/2 origin ends the stream for it.
func dropForbidden(trailer http.Header) {
	for name := range trailer {
		if !httpguts.ValidTrailerHeader(name) {
			delete(trailer, name)
		}
	}
}

func (s *Spool) readUnlocked(p []byte) (int, error) {
	s.unlock()
	defer s.mu.Lock() // also if src panics
	return s.src.Read(p)
}

// landLocked ends a flight.
func (s *Spool) landLocked() {
	s.flight = false
	s.releasePassedLocked()
	if len(s.window) == 0 {
		s.resizeLocked(0)
	}
	s.cond.Broadcast()
}
