// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// spoolSim drives a spool step by step. Each attempt reads in a goroutine of its
// own and the source gives bytes only when told to, so that any interleaving of
// reads, fences and attempts can be drawn; synctest tells when all have settled.
type spoolSim struct {
	cfg       SpoolConfig
	body      []byte
	end       error // what the source ends with
	s         *Spool
	src       *spoolSimSource
	attempts  []*spoolAttempt
	live      *spoolAttempt
	abandoned bool
}

// spoolSimSource gives the body in the pieces it is told to give.
type spoolSimSource struct {
	rest    []byte
	end     error
	asked   int // buffer of the read under way; 0: none
	overlap bool
	feed    chan spoolFeed
}

type spoolFeed struct {
	n     int
	joint bool // the end comes with the last bytes
}

func (f *spoolSimSource) Read(p []byte) (int, error) {
	f.overlap = f.overlap || f.asked > 0
	f.asked = len(p)
	feed := <-f.feed
	f.asked = 0
	if len(f.rest) == 0 {
		return 0, f.end
	}
	n := copy(p, f.rest[:min(feed.n, len(f.rest))])
	if f.rest = f.rest[n:]; len(f.rest) == 0 && feed.joint {
		return n, f.end
	}
	return n, nil
}

func (*spoolSimSource) Close() error { return nil }

type spoolAttempt struct {
	r      *SpoolReader
	ask    chan int
	busy   bool
	fenced bool
	got    []byte
	err    error
}

func (a *spoolAttempt) run() {
	for size := range a.ask {
		p := make([]byte, size)
		n, err := a.r.Read(p)
		a.got = append(a.got, p[:n]...)
		if err != nil {
			a.err = err
		}
		a.busy = false
	}
}

func newSpoolSim(t *rapid.T, dir string) *spoolSim {
	body := spoolBody(rapid.OneOf(rapid.IntRange(0, 50), rapid.IntRange(0, 80_000)).Draw(t, "body"))
	size := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 50), rapid.IntRange(0, 60_000))
	m := &spoolSim{
		cfg:  SpoolConfig{Memory: int64(size.Draw(t, "memory")), File: int64(size.Draw(t, "file")), Dir: dir},
		body: body,
		end:  rapid.SampledFrom([]error{io.EOF, errSpoolClient}).Draw(t, "end"),
	}
	m.src = &spoolSimSource{rest: body, end: m.end, feed: make(chan spoolFeed)}
	m.s = NewSpool(m.src, nil, m.cfg)
	return m
}

func (m *spoolSim) close() {
	m.s.Close()
	if synctest.Wait(); m.src.asked > 0 {
		m.src.feed <- spoolFeed{}
	}
	for _, a := range m.attempts {
		close(a.ask)
	}
	synctest.Wait()
}

func (m *spoolSim) newReader(t *rapid.T) {
	whole := m.s.Whole()
	r, err := m.s.Reader()
	if whole != (err == nil) || !whole && !errors.Is(err, ErrNotKept) {
		t.Fatalf("Whole %v, but Reader: %v", whole, err)
	}
	if !whole {
		return
	}
	if m.live != nil {
		m.live.fenced = true
	}
	m.live = &spoolAttempt{r: r, ask: make(chan int)}
	m.attempts = append(m.attempts, m.live)
	go m.live.run()
}

func (m *spoolSim) read(t *rapid.T) {
	if len(m.attempts) == 0 {
		t.Skip()
	}
	a := m.attempts[len(m.attempts)-1]
	if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
		a = rapid.SampledFrom(m.attempts).Draw(t, "attempt")
	}
	if a.busy {
		t.Skip()
	}
	a.busy = true
	a.ask <- rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(1, 40_000)).Draw(t, "size")
}

func (m *spoolSim) feed(t *rapid.T) {
	if m.src.asked == 0 {
		t.Skip()
	}
	n := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(1, 40_000)).Draw(t, "bytes")
	m.src.feed <- spoolFeed{n, rapid.Bool().Draw(t, "joint")}
}

func (m *spoolSim) fence(t *rapid.T) {
	if m.live == nil {
		t.Skip()
	}
	_ = m.live.r.Close()
	m.live.fenced, m.live = true, nil
}

func (m *spoolSim) abandon(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		t.Skip()
	}
	m.s.Abandon()
	m.abandoned = true
}

// check holds after every step.
func (m *spoolSim) check(t *rapid.T) {
	synctest.Wait()
	if m.src.overlap {
		t.Fatal("two reads of the source at once")
	}
	for i, a := range m.attempts {
		m.checkAttempt(t, i, a)
	}
	m.checkBounds(t)
	received := int64(len(m.body) - len(m.src.rest))
	if got := m.s.Received(); got != received {
		t.Fatalf("received: got %d, want %d", got, received)
	}
	limit := m.cfg.limit()
	if !m.s.Whole() && (received == 0 || !m.abandoned && received <= limit) {
		t.Fatalf("got not whole after %d bytes of at most %d", received, limit)
	}
	if passed := m.live != nil && int64(len(m.live.got)) == received; passed && m.s.Whole() &&
		received > 0 && (m.abandoned || received > limit) {
		t.Fatalf("got whole after %d bytes of at most %d, which were passed", received, limit)
	}
}

func (m *spoolSim) checkAttempt(t *rapid.T, i int, a *spoolAttempt) {
	if !bytes.HasPrefix(m.body, a.got) {
		t.Fatalf("attempt %d: %d bytes are not the body's first", i, len(a.got))
	}
	switch {
	case a.err == nil:
	case a.err == m.end:
		if len(a.got) != len(m.body) {
			t.Fatalf("attempt %d: ended after %d bytes of %d", i, len(a.got), len(m.body))
		}
	case a.err != ErrFenced || !a.fenced:
		t.Fatalf("attempt %d (fenced %v): %v", i, a.fenced, a.err)
	}
	if a.fenced && a.busy {
		t.Fatalf("attempt %d: fenced, but waits", i)
	}
}

func (m *spoolSim) checkBounds(t *rapid.T) {
	var memory int64
	for _, c := range m.s.mem.chunks {
		memory += int64(len(c))
	}
	if memory > 0 && memory >= m.cfg.Memory+spoolChunk {
		t.Fatalf("memory: got %d, at most %d", memory, m.cfg.Memory)
	}
	if len(m.s.buf) > spoolChunk || m.src.asked == 0 && len(m.s.window) == 0 && m.s.buf != nil {
		t.Fatalf("buffer: got %d for %d bytes", len(m.s.buf), len(m.s.window))
	}
	if m.s.kept > m.cfg.limit() {
		t.Fatalf("kept: got %d of %d + %d", m.s.kept, m.cfg.Memory, m.cfg.File)
	}
	if m.s.file == nil {
		return
	}
	if st, err := m.s.file.f.Stat(); err != nil || st.Size() > m.cfg.File {
		t.Fatalf("file: got %v, %v; at most %d", st, err, m.cfg.File)
	}
}

// finish lets one more attempt, if there can be one, run to the end.
func (m *spoolSim) finish(t *rapid.T) {
	if m.s.Whole() {
		m.newReader(t)
	}
	for m.live != nil && m.live.err == nil {
		if !m.live.busy {
			m.live.busy = true
			m.live.ask <- 10_000
		}
		if synctest.Wait(); m.src.asked > 0 {
			m.src.feed <- spoolFeed{n: 5_000}
		}
		m.check(t)
	}
}

// spoolHideDeadline keeps rapid from asking for a deadline, which a bubble forbids.
type spoolHideDeadline struct{ rapid.TB }

// Whatever happens to the attempts before, each one gives the body from its
// first byte on, and one that ends gives all of it; only what is beyond the
// limits makes the body lose its beginning.
func TestSpoolProperty(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(spoolHideDeadline{t}, func(t *rapid.T) {
			m := newSpoolSim(t, dir)
			defer m.close()
			t.Repeat(map[string]func(*rapid.T){
				"":        m.check,
				"new":     m.newReader,
				"read":    m.read,
				"read 2":  m.read,
				"feed":    m.feed,
				"feed 2":  m.feed,
				"fence":   m.fence,
				"abandon": m.abandon,
			})
			m.finish(t)
		})
	})
	spoolDirEmpty(t, dir)
}
