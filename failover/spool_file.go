// SPDX-License-Identifier: Apache-2.0

// Where a Spool keeps bytes: pooled chunks of memory, then a temporary file.

package failover

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Chunk sizes: the first is small because most bodies are, and a request holds
// its chunks for as long as it lives; the others are as long as one read of
// net/http's transport.
const (
	spoolFirst = 4 << 10
	spoolChunk = 32 << 10
)

var (
	spoolFirstPool = sync.Pool{New: func() any { return new([spoolFirst]byte) }}
	spoolChunkPool = sync.Pool{New: func() any { return new([spoolChunk]byte) }}
)

// spoolMemory holds bytes at their offset in the body, in chunks taken from a
// pool. Bound: SpoolConfig.Memory, rounded up to whole chunks; only the client,
// by sending, makes it grow. Its owner's lock guards it: no slice of a chunk
// leaves a method, so a chunk given back to the pool is in nobody's hands.
type spoolMemory struct {
	chunks [][]byte  // by place in the body; nil where given back
	inline [3][]byte // chunks' first backing array: none allocated up to 68 KiB
	passed int       // how many were given back, which are the first
}

// spoolPlace says which chunk holds the byte at off, and where in the chunk.
func spoolPlace(off int64) (chunk, at int) {
	if off < spoolFirst {
		return 0, int(off)
	}
	off -= spoolFirst
	return 1 + int(off/spoolChunk), int(off % spoolChunk)
}

func (m *spoolMemory) writeAt(b []byte, off int64) {
	for len(b) > 0 {
		i, at := spoolPlace(off)
		n := copy(m.chunk(i)[at:], b)
		b, off = b[n:], off+int64(n)
	}
}

// readAt fills p with the bytes from off on; all of them must have been written.
func (m *spoolMemory) readAt(p []byte, off int64) {
	for len(p) > 0 {
		i, at := spoolPlace(off)
		n := copy(p, m.chunks[i][at:])
		p, off = p[n:], off+int64(n)
	}
}

// chunk returns the i-th chunk, after taking it from the pool if it is new.
func (m *spoolMemory) chunk(i int) []byte {
	if m.chunks == nil {
		m.chunks = m.inline[:0]
	}
	if i == len(m.chunks) {
		size := spoolChunk
		if i == 0 {
			size = spoolFirst
		}
		m.chunks = append(m.chunks, spoolNewChunk(size))
	}
	return m.chunks[i]
}

// release gives back every chunk that ends at or before off, and reports whether
// there was one.
func (m *spoolMemory) release(off int64) bool {
	end, _ := spoolPlace(off)
	return m.releaseChunks(min(end, len(m.chunks)))
}

func (m *spoolMemory) releaseAll() bool { return m.releaseChunks(len(m.chunks)) }

func (m *spoolMemory) releaseChunks(end int) bool {
	before := m.passed
	for ; m.passed < end; m.passed++ {
		spoolPutChunk(m.chunks[m.passed])
		m.chunks[m.passed] = nil
	}
	return m.passed > before
}

func spoolNewChunk(size int) []byte {
	if size == spoolFirst {
		return spoolFirstPool.Get().(*[spoolFirst]byte)[:]
	}
	return spoolChunkPool.Get().(*[spoolChunk]byte)[:]
}

func spoolPutChunk(c []byte) {
	if len(c) == spoolFirst {
		spoolFirstPool.Put((*[spoolFirst]byte)(c))
		return
	}
	spoolChunkPool.Put((*[spoolChunk]byte)(c))
}

// spoolFile is a temporary file without a name where the system allows it
// (Unix: a crash leaves nothing behind), else removed when it is closed. Bound:
// SpoolConfig.File. It is closed when the last of its users has let go, so that
// no read or write of it meets a closed file.
type spoolFile struct {
	f     *os.File
	named bool // still to be removed
	users atomic.Int32
}

// newSpoolFile makes the file; the caller is its first user.
func newSpoolFile(dir string) (*spoolFile, error) {
	f, err := os.CreateTemp(dir, "reset-guard-body-*")
	if err != nil {
		return nil, fmt.Errorf("creating the file for a request body: %w", err)
	}
	sf := &spoolFile{f: f, named: os.Remove(f.Name()) != nil}
	sf.users.Store(1)
	return sf, nil
}

func (f *spoolFile) writeAt(b []byte, off int64) error {
	if _, err := f.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("writing a request body to a file: %w", err)
	}
	return nil
}

func (f *spoolFile) readAt(p []byte, off int64) error {
	if _, err := f.f.ReadAt(p, off); err != nil {
		return fmt.Errorf("reading a request body back from its file: %w", err)
	}
	return nil
}

// hold adds a user; the caller must know that there is one already.
func (f *spoolFile) hold() *spoolFile {
	f.users.Add(1)
	return f
}

// letGo takes a user away; the last one closes the file. Nothing can be done
// about an error of closing: the bytes are not wanted any more. A nil file is
// fine.
func (f *spoolFile) letGo() {
	if f == nil || f.users.Add(-1) > 0 {
		return
	}
	_ = f.f.Close()
	if f.named {
		_ = os.Remove(f.f.Name())
	}
}

// storeWindowLocked stores the window after the bytes that are kept, so that src
// can be read again. If it cannot, keeping ends. The lock is given up while the
// file is written; if keeping was given up meanwhile the window stays as it was.
func (s *Spool) storeWindowLocked() {
	b, off := s.window, s.kept
	if !s.reserveLocked(off, int64(len(b))) {
		s.overflowLocked(errSpoolBudget)
		return
	}
	if room := s.cfg.Memory - off; room > 0 {
		n := min(int64(len(b)), room)
		s.mem.writeAt(b[:n], off)
		b, off = b[n:], off+n
	}
	if len(b) > 0 {
		if err := s.storeInFileLocked(b, off-s.cfg.Memory); err != nil {
			s.overflowLocked(err)
		}
	}
	if s.keeping {
		s.kept, s.window = s.received, nil
	}
}

// reserveLocked asks the budget for n bytes from off on.
func (s *Spool) reserveLocked(off, n int64) bool {
	memory := min(n, max(0, s.cfg.Memory-off))
	if !s.cfg.Budget.take(memory, n-memory) {
		return false
	}
	s.reservedMemory += memory
	s.reservedFile += n - memory
	return true
}

func (s *Spool) unreserveLocked() {
	s.cfg.Budget.giveBack(s.reservedMemory, s.reservedFile)
	s.reservedMemory, s.reservedFile = 0, 0
}

// storeInFileLocked writes without the lock: nobody else writes, as there is one
// flight at a time, and nobody reads what is not yet counted in kept.
func (s *Spool) storeInFileLocked(b []byte, off int64) (err error) {
	f := s.file
	if f != nil {
		f.hold()
	}
	s.unlock()
	if f == nil {
		f, err = newSpoolFile(s.cfg.Dir)
	}
	if err == nil {
		err = f.writeAt(b, off)
	}
	s.mu.Lock()
	if s.file == nil && s.keeping && err == nil {
		s.file = f
	} else {
		s.letGoLocked(f)
	}
	return err
}

// overflowLocked ends keeping for the given reason.
func (s *Spool) overflowLocked(why error) { s.keeping, s.overflow = false, why }

// releasePassedLocked lets go of what nobody will read, once keeping has ended:
// what the live reader has passed, or everything if there is none and the body
// is not whole, so that there will be none.
func (s *Spool) releasePassedLocked() {
	if s.keeping || s.live == nil && !s.lost {
		return
	}
	passed := s.received
	if s.live != nil {
		passed = s.live.off
	}
	released := false
	switch {
	case passed >= s.kept:
		released = s.mem.releaseAll() || s.file != nil
		s.letGoLocked(s.file)
		s.file = nil
		s.unreserveLocked()
	case passed >= s.cfg.Memory:
		released = s.mem.releaseAll()
	default:
		released = s.mem.release(passed)
	}
	if passed == s.received && len(s.window) > 0 && !s.flight {
		s.window, released = nil, true
		s.resizeLocked(0)
	}
	s.lost = s.lost || released
}

// letGoLocked lets go of f, which may be nil, when the lock is given up.
func (s *Spool) letGoLocked(f *spoolFile) {
	if f != nil {
		s.unwanted.letGo() // nil, or f itself, which does not close it
		s.unwanted = f
	}
}

// resizeLocked takes a buffer of the given size (0, spoolFirst, spoolChunk) for
// an empty window and gives the one there was back to its pool.
func (s *Spool) resizeLocked(size int) {
	if len(s.buf) == size {
		return
	}
	if s.buf != nil {
		spoolPutChunk(s.buf)
	}
	s.buf = nil
	if size > 0 {
		s.buf = spoolNewChunk(size)
	}
}
