// SPDX-License-Identifier: Apache-2.0

// Hold keeps the start of a response until it is safe to begin answering.

package failover

import (
	"io"
	"runtime"
	"sync"
	"time"
)

// Body is a response's body, the start of which may be held. It passes on what
// the origin sends and tells, once, how the origin's body ended. Reads and the
// final Close belong to one goroutine, as with every http.Response.Body.
type Body struct {
	src     io.ReadCloser
	watcher BodyWatcher
	held    *hold // nil when nothing is held any more
	total   int64 // bytes that were given to the reader
	started bool
	ended   bool
	resumer Resumer // nil: a body that breaks off is broken
	broke   error   // what src broke off with; to be resumed with the next read
}

// Resumer goes on with a Body that broke off. It is called by the goroutine that
// reads the Body.
type Resumer interface {
	// Passed is given what goes to the reader. It must not keep it.
	Passed(p []byte)
	// Resume returns what follows the received bytes, or the error to end with.
	// The Body closes what it returns, and has closed what broke off.
	Resume(received int64, err error) (io.ReadCloser, error)
}

// BodyWatcher is told about a Body by the goroutine that reads it.
type BodyWatcher interface {
	// BodyStarted is called before the first read: from now on bytes reach
	// the client, and no other attempt can take this one's place.
	BodyStarted()
	// BodyEnded is called once: with nil after a complete body, with the error
	// after a broken one, with ErrUnread if the reader closed it early.
	BodyEnded(received int64, err error)
}

// ErrUnread is how a Body ends that was closed before its end: the reader, and
// not the origin, broke off.
var ErrUnread = errUnread{}

type errUnread struct{}

func (errUnread) Error() string { return "response body closed before its end" }

// Watch prepares b to pass on src and to tell w, which may be nil.
func (b *Body) Watch(src io.ReadCloser, w BodyWatcher) {
	b.src, b.watcher = src, w
}

// ResumeWith lets r go on where the body breaks off after its start was read. It
// must be called before that.
func (b *Body) ResumeWith(r Resumer) { b.resumer = r }

// Hold reads the start of the body: until it is complete, limit bytes have
// come, or the time is over. ready is how many bytes can certainly be read
// without waiting; length is the whole body's length, -1 if unknown. The error
// is the one that broke the body off within the held part; then nothing of it
// has been given to anybody and the response can be thrown away.
//
// A body of which all bytes are ready costs no goroutine, no timer and no
// allocation beyond a pooled buffer. Otherwise a goroutine reads on; it ends
// with the read that is under way when the hold ends, or with Close.
func (b *Body) Hold(limit, length, ready int64, patience time.Duration) error {
	if limit <= 0 || length == 0 {
		return nil
	}
	if length > 0 {
		limit = min(limit, length)
	}
	h := newHold(int(limit))
	b.held = h
	if ready > 0 {
		h.read(b.src) // gives all of that at once; a second read might wait
	}
	if h.err == nil && (length < 0 || int64(h.w) < length) && h.w < h.limit {
		h.wait(b.src, patience, length < 0)
	}
	return h.broken()
}

// Read gives the held part first, then what the origin sends.
func (b *Body) Read(p []byte) (int, error) {
	if !b.started && b.watcher != nil {
		b.started = true
		b.watcher.BodyStarted()
	}
	n, err := b.readOn(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// readOn reads, and resumes what breaks off. Bytes that came with an error go to
// the reader before anything is done about it.
func (b *Body) readOn(p []byte) (int, error) {
	for {
		if b.broke != nil {
			if err := b.resume(); err != nil {
				return 0, err
			}
		}
		n, err := b.read(p)
		b.total += int64(n)
		if b.resumer == nil {
			return n, err
		}
		b.resumer.Passed(p[:n])
		if err == nil || err == io.EOF {
			return n, err
		}
		if b.broke = err; n > 0 {
			return n, nil
		}
	}
}

// resume goes on with another source, or ends for good.
func (b *Body) resume() error {
	_ = b.src.Close() // it has told what was wrong with it
	next, err := b.resumer.Resume(b.total, b.broke)
	b.broke = nil
	if err != nil {
		b.resumer, b.src = nil, brokenBody{err}
		return err
	}
	b.src = next
	return nil
}

// brokenBody goes on giving the error that it ended with.
type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }
func (brokenBody) Close() error               { return nil }

func (b *Body) read(p []byte) (int, error) {
	if b.held == nil {
		return b.src.Read(p)
	}
	n, err, drained := b.held.take(p)
	if drained {
		b.held.release()
		b.held = nil
		if n == 0 && err == nil && len(p) > 0 {
			return b.src.Read(p)
		}
	}
	return n, err
}

// Close closes the origin's body. A read that is under way in the background
// ends with that.
func (b *Body) Close() error {
	b.end(ErrUnread)
	err := b.src.Close()
	if b.held != nil {
		b.held.abandon()
		b.held = nil
	}
	return err
}

func (b *Body) end(err error) {
	if b.ended {
		return
	}
	b.ended = true
	if err == io.EOF {
		err = nil
	}
	if b.watcher != nil {
		b.watcher.BodyEnded(b.total, err)
	}
}

// hold is a pooled buffer with, at times, a goroutine that fills it.
type hold struct {
	limit int
	buf   []byte
	timer *time.Timer
	done  chan struct{} // receives one value when the goroutine has ended

	mu       sync.Mutex
	r, w     int
	err      error
	running  bool // the goroutine may write to buf[w:]
	released bool // the goroutine shall end after the read under way
	gone     bool // nobody will take what is held
}

// The buffers come in two sizes, so that small answers do not cost large
// buffers. A hold larger than that is allocated each time.
const (
	smallHold = 4 << 10
	largeHold = DefaultHoldBytes
)

var (
	smallHolds = sync.Pool{New: func() any { return makeHold(smallHold) }}
	largeHolds = sync.Pool{New: func() any { return makeHold(largeHold) }}
)

func makeHold(size int) *hold {
	return &hold{buf: make([]byte, size), done: make(chan struct{}, 1)}
}

func newHold(limit int) *hold {
	var h *hold
	switch {
	case limit <= smallHold:
		h = smallHolds.Get().(*hold)
	case limit <= largeHold:
		h = largeHolds.Get().(*hold)
	default:
		h = makeHold(limit)
	}
	h.limit, h.r, h.w, h.err = limit, 0, 0, nil
	h.running, h.released, h.gone = false, false, false
	return h
}

// release gives the buffer back; nobody may use h afterwards.
func (h *hold) release() {
	switch len(h.buf) {
	case smallHold:
		smallHolds.Put(h)
	case largeHold:
		largeHolds.Put(h)
	}
}

func (h *hold) read(src io.Reader) {
	n, err := src.Read(h.buf[h.w:h.limit])
	h.w += n
	h.err = err
}

// broken is the error with which the held part ended; nil while it goes on or
// after a complete body.
func (h *hold) broken() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running || h.err == io.EOF {
		return nil
	}
	return h.err
}

// wait fills the buffer from another goroutine, for patience at the most. A body
// without a length may be a long poll, or a stream of events under another name,
// of which each part is waited for: such a one is held only as long as it comes
// without a pause.
func (h *hold) wait(src io.Reader, patience time.Duration, endless bool) {
	h.running = true
	go h.fill(src)
	if endless {
		h.waitForPause(patience)
		h.letGo()
		return
	}
	if h.timer == nil {
		h.timer = time.NewTimer(patience)
	} else {
		h.timer.Reset(patience)
	}
	select {
	case <-h.done:
		h.timer.Stop()
	case <-h.timer.C:
		h.letGo()
	}
}

// letGo makes the goroutine stop after the read that is under way.
func (h *hold) letGo() {
	h.mu.Lock()
	h.released = true
	running := h.running
	h.mu.Unlock()
	if !running {
		<-h.done
	}
}

// A pause is so long, and at the most so many looks: enough for what was sent
// together, and for the end of a connection that was sent with it. It is waited
// for by letting others run, as no timer goes off in less than a millisecond.
const (
	pauseFor   = 100 * time.Microsecond
	pauseLooks = 500
)

// waitForPause returns when the body has paused, has ended, or patience is over.
func (h *hold) waitForPause(patience time.Duration) {
	began := time.Now()
	last, seen := began, -1
	for looks := 0; looks < pauseLooks; looks++ {
		h.mu.Lock()
		w, running := h.w, h.running
		h.mu.Unlock()
		if !running {
			return
		}
		now := time.Now()
		if w != seen {
			last, seen, looks = now, w, 0
		}
		if now.Sub(last) >= pauseFor || now.Sub(began) >= patience {
			return
		}
		runtime.Gosched()
	}
}

// fill reads until the buffer is full, the body ends, or it is told to stop.
func (h *hold) fill(src io.Reader) {
	for {
		h.mu.Lock()
		space := h.buf[h.w:h.limit] // w moves only here while running
		h.mu.Unlock()
		n, err := src.Read(space)
		h.mu.Lock()
		h.w += n
		h.err = err
		stop := err != nil || h.w == h.limit || h.released || h.gone
		gone := h.gone
		if stop {
			h.running = false
		}
		if stop && !gone {
			// Under the lock: whoever sees that nothing is running finds the word
			// in the channel, which has room for the one that each run sends.
			h.done <- struct{}{}
		}
		h.mu.Unlock()
		if stop {
			if gone {
				h.release()
			}
			return
		}
	}
}

// take gives what is held. drained tells that h holds nothing more and that no
// goroutine uses it.
func (h *hold) take(p []byte) (n int, err error, drained bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.r == h.w && h.running {
		h.mu.Unlock()
		<-h.done
		h.mu.Lock()
	}
	n = copy(p, h.buf[h.r:h.w])
	h.r += n
	if h.r < h.w || h.running {
		return n, nil, false
	}
	if h.released {
		h.collect()
	}
	return n, h.err, true
}

// collect takes the goroutine's last word, so that the channel is empty when
// the buffer is used again.
func (h *hold) collect() {
	select {
	case <-h.done:
	default:
	}
}

// abandon gives the buffer up; if the goroutine still uses it, that releases it.
func (h *hold) abandon() {
	h.mu.Lock()
	h.gone = true
	running := h.running
	if !running {
		h.collect()
	}
	h.mu.Unlock()
	if !running {
		h.release()
	}
}
