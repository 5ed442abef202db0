// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

var (
	errSpoolClient = errors.New("client went away")

	spoolInMemory = SpoolConfig{Memory: 1 << 20}
)

func spoolBody(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// newTestSpool makes a spool over src and closes it with the test.
func newTestSpool(t *testing.T, src io.Reader, cfg SpoolConfig) *Spool {
	t.Helper()
	if cfg.File > 0 && cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s := NewSpool(io.NopCloser(src), nil, cfg)
	t.Cleanup(s.Close)
	return s
}

func mustSpoolReader(t *testing.T, s *Spool) *SpoolReader {
	t.Helper()
	r, err := s.Reader()
	if err != nil {
		t.Fatalf("Reader: %v", err)
	}
	return r
}

// spoolChunks counts the chunks and buffers of memory that s holds, once no read
// of the source is under way.
func spoolChunks(s *Spool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.flight {
		s.cond.Wait()
	}
	n := len(s.mem.chunks) - s.mem.passed
	if s.buf != nil {
		n++
	}
	return n
}

func spoolHasFile(s *Spool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file != nil
}

func spoolReadN(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

// spoolGate is a source that waits in each Read until the test says what the
// read gives. It panics if two reads overlap.
type spoolGate struct {
	entered chan int // the size of the buffer of a read that has begun
	give    chan spoolGift
	busy    sync.Mutex
}

type spoolGift struct {
	data string
	err  error
}

func newSpoolGate() *spoolGate {
	return &spoolGate{entered: make(chan int, 1), give: make(chan spoolGift)}
}

func (g *spoolGate) Read(p []byte) (int, error) {
	if !g.busy.TryLock() {
		panic("two reads of the source at once")
	}
	defer g.busy.Unlock()
	g.entered <- len(p)
	gift := <-g.give
	return copy(p, gift.data), gift.err
}

func (*spoolGate) Close() error { panic("the spool closed its source") }

type spoolRead struct {
	data string
	err  error
}

// spoolGo reads once in another goroutine.
func spoolGo(r io.Reader, size int) <-chan spoolRead {
	done := make(chan spoolRead, 1)
	go func() {
		b := make([]byte, size)
		n, err := r.Read(b)
		done <- spoolRead{string(b[:n]), err}
	}()
	return done
}

// The second attempt gives the whole body, however the source cuts it and
// wherever the first attempt was broken off.
func TestSpoolSendsAgain(t *testing.T) {
	body := spoolBody(100_000)
	sources := map[string]func(io.Reader) io.Reader{
		"whole":         func(r io.Reader) io.Reader { return r },
		"halves":        iotest.HalfReader,
		"data with EOF": iotest.DataErrReader,
		"empty reads":   func(r io.Reader) io.Reader { return &spoolStutter{r: r} },
		"small pieces":  func(r io.Reader) io.Reader { return &spoolPieces{r: r, size: 61} },
	}
	configs := map[string]SpoolConfig{
		"memory":        {Memory: 100_000},
		"both":          {Memory: 5_000, File: 95_000},
		"file":          {File: 100_000},
		"more than all": {Memory: 70_000, File: 1 << 30},
	}
	for sname, wrap := range sources {
		for cname, cfg := range configs {
			for _, first := range []int{0, 1, 4096, 4097, 36864, 99_999, 100_000} {
				t.Run(fmt.Sprintf("%s/%s/%d", sname, cname, first), func(t *testing.T) {
					s := newTestSpool(t, wrap(bytes.NewReader(body)), cfg)
					one := mustSpoolReader(t, s)
					if got := spoolReadN(t, one, first); !bytes.Equal(got, body[:first]) {
						t.Error("first attempt: wrong bytes")
					}
					two := mustSpoolReader(t, s)
					if got, err := io.ReadAll(two); err != nil || !bytes.Equal(got, body) {
						t.Errorf("second attempt: got %d bytes, %v; want the body", len(got), err)
					}
					if _, err := one.Read(make([]byte, 1)); err != ErrFenced {
						t.Errorf("first attempt afterwards: got %v, want ErrFenced", err)
					}
					if !s.Whole() || s.Overflow() != nil || s.Received() != 100_000 || s.SourceErr() != nil {
						t.Errorf("got %v, %v, %d, %v; want whole", s.Whole(), s.Overflow(), s.Received(), s.SourceErr())
					}
				})
			}
		}
	}
}

// spoolStutter gives nothing at every other read.
type spoolStutter struct {
	r   io.Reader
	odd bool
}

func (s *spoolStutter) Read(p []byte) (int, error) {
	if s.odd = !s.odd; s.odd {
		return 0, nil
	}
	return s.r.Read(p)
}

// spoolPieces gives a few bytes at a time.
type spoolPieces struct {
	r    io.Reader
	size int
}

func (s *spoolPieces) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.size)]) }

// What a single Read passes on of what the source gives.
func TestSpoolReadShapes(t *testing.T) {
	for _, tc := range []struct {
		name string
		src  spoolGift
		size int
		want spoolRead
	}{
		{"data", spoolGift{"abc", nil}, 8, spoolRead{"abc", nil}},
		{"data and EOF", spoolGift{"abc", io.EOF}, 8, spoolRead{"abc", io.EOF}},
		{"EOF", spoolGift{"", io.EOF}, 8, spoolRead{"", io.EOF}},
		{"data and error", spoolGift{"abc", errSpoolClient}, 8, spoolRead{"abc", errSpoolClient}},
		{"error", spoolGift{"", errSpoolClient}, 8, spoolRead{"", errSpoolClient}},
	} {
		for _, cfg := range []SpoolConfig{spoolInMemory, {File: 10}, {}} {
			t.Run(fmt.Sprintf("%s/%d+%d", tc.name, cfg.Memory, cfg.File), func(t *testing.T) {
				gate := newSpoolGate()
				s := newTestSpool(t, gate, cfg)
				r := mustSpoolReader(t, s)
				if n, err := r.Read(nil); n != 0 || err != nil {
					t.Errorf("empty read: got %d, %v", n, err)
				}
				done := spoolGo(r, tc.size)
				<-gate.entered
				gate.give <- tc.src
				if got := <-done; got != tc.want {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				if tc.want.err == nil {
					return
				}
				if _, err := r.Read(make([]byte, 1)); err != tc.want.err {
					t.Errorf("read after the end: got %v, want %v", err, tc.want.err)
				}
				if got := s.SourceErr(); tc.want.err != io.EOF && got != tc.want.err || tc.want.err == io.EOF && got != nil {
					t.Errorf("SourceErr: got %v", got)
				}
			})
		}
	}
}

// The client's error comes where the client left off, in every attempt.
func TestSpoolSourceErrorAtItsOffset(t *testing.T) {
	s := newTestSpool(t, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errSpoolClient)), spoolInMemory)
	for attempt := range 3 {
		got, err := io.ReadAll(mustSpoolReader(t, s))
		if string(got) != "abc" || err != errSpoolClient {
			t.Errorf("attempt %d: got %q, %v; want \"abc\", %v", attempt, got, err, errSpoolClient)
		}
	}
	if n, err := s.Drain(10); n != 0 || err != errSpoolClient {
		t.Errorf("Drain: got %d, %v", n, err)
	}
}

func TestSpoolLength(t *testing.T) {
	const said = 40_000 // more than one read
	for _, tc := range []struct {
		name string
		came int
		want error
		give int
	}{
		{"as said", said, nil, said},
		{"nothing", 0, ErrLength, 0},
		{"short", said - 1, ErrLength, said - 1},
		{"long", said + 1, ErrLength, said},
	} {
		for shape, wrap := range map[string]func(io.Reader) io.Reader{
			"": func(r io.Reader) io.Reader { return r }, "bytewise": iotest.OneByteReader, "end with data": iotest.DataErrReader,
		} {
			t.Run(strings.TrimSpace(tc.name+" "+shape), func(t *testing.T) {
				body := spoolBody(tc.came)
				s := newTestSpool(t, wrap(bytes.NewReader(body)), SpoolConfig{Length: said, Memory: 1 << 20})
				for range 2 { // the second attempt gets it from memory
					got, err := io.ReadAll(mustSpoolReader(t, s))
					if !errors.Is(err, tc.want) || !bytes.Equal(got, body[:tc.give]) {
						t.Fatalf("got %d bytes, %v; want the first %d, %v", len(got), err, tc.give, tc.want)
					}
				}
				if err := s.SourceErr(); !errors.Is(err, tc.want) {
					t.Errorf("SourceErr: got %v, want %v", err, tc.want)
				}
			})
		}
	}
}

func TestSpoolLimit(t *testing.T) {
	for _, tc := range []struct {
		name         string
		cfg          SpoolConfig
		body         int
		whole, cause bool
	}{
		{"ok/empty, nothing kept", SpoolConfig{}, 0, true, false},
		{"ok/below", SpoolConfig{Memory: 10_000}, 9_999, true, false},
		{"ok/just full", SpoolConfig{Memory: 10_000}, 10_000, true, false},
		{"ok/file just full", SpoolConfig{Memory: 10_000, File: 30_000}, 40_000, true, false},
		{"over/nothing kept", SpoolConfig{}, 1, false, false},
		{"over/negative is nothing", SpoolConfig{Memory: -1, File: -1}, 1, false, false},
		{"over/memory", SpoolConfig{Memory: 10_000}, 10_001, false, true},
		{"over/file", SpoolConfig{Memory: 10_000, File: 30_000}, 40_001, false, true},
		{"over/far", SpoolConfig{Memory: 10_000, File: 30_000}, 400_000, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := spoolBody(tc.body)
			s := newTestSpool(t, bytes.NewReader(body), tc.cfg)
			got, err := io.ReadAll(mustSpoolReader(t, s))
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("got %d bytes, %v; want the body", len(got), err)
			}
			if s.Whole() != tc.whole || (s.Overflow() != nil) != tc.cause {
				t.Errorf("got whole %v, overflow %v; want %v, %v", s.Whole(), s.Overflow(), tc.whole, tc.cause)
			}
			_, err = s.Reader()
			if tc.whole != (err == nil) || !tc.whole && !errors.Is(err, ErrNotKept) {
				t.Errorf("Reader: got %v", err)
			}
			if !tc.whole && (spoolChunks(s) != 0 || spoolHasFile(s)) {
				t.Errorf("got %d chunks and file %v still kept, want none", spoolChunks(s), s.file)
			}
		})
	}
}

// A second attempt that goes beyond the limits releases what it has passed.
func TestSpoolOverflowOfLaterAttempt(t *testing.T) {
	body := spoolBody(200_000)
	s := newTestSpool(t, bytes.NewReader(body), SpoolConfig{Memory: 30_000, File: 70_000})
	spoolReadN(t, mustSpoolReader(t, s), 60_000)
	two := mustSpoolReader(t, s)
	got := spoolReadN(t, two, 69_000)
	if !s.Whole() || !spoolHasFile(s) {
		t.Fatal("below the limit: not whole")
	}
	rest, err := io.ReadAll(two)
	if err != nil || !bytes.Equal(append(got, rest...), body) {
		t.Errorf("got %d bytes, %v; want the body", len(got)+len(rest), err)
	}
	if s.Whole() || spoolChunks(s) != 0 || spoolHasFile(s) {
		t.Error("beyond the limit: still kept")
	}
	_, err = s.Reader()
	for _, part := range []string{"200000", "100000", "longer"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestSpoolDrain(t *testing.T) {
	for _, tc := range []struct {
		name       string
		body, read int
		limit      int64
		want       int64 // with what was received before
	}{
		{"all", 100_000, 0, 1 << 20, 100_000},
		{"the rest", 100_000, 60_000, 1 << 20, 100_000},
		{"up to the limit", 100_000, 4096, 50_000, 54_096},
		{"nothing left", 10, 10, 100, 10},
		{"no limit, no bytes", 10, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTestSpool(t, bytes.NewReader(spoolBody(tc.body)), SpoolConfig{Memory: 20_000, File: 80_000})
			r := mustSpoolReader(t, s)
			spoolReadN(t, r, tc.read)
			before := s.Received()
			if n, err := s.Drain(tc.limit); n != tc.want-before || err != nil {
				t.Errorf("got %d, %v; want %d", n, err, tc.want-before)
			}
			if _, err := r.Read(make([]byte, 1)); err != ErrFenced {
				t.Errorf("reader: got %v, want ErrFenced", err)
			}
			if spoolChunks(s) != 0 || spoolHasFile(s) || s.Whole() {
				t.Error("still kept")
			}
			if got := s.Received(); got != tc.want {
				t.Errorf("received: got %d, want %d", got, tc.want)
			}
		})
	}
}

// A source that panics does so in the goroutine that reads, and leaves the
// spool so that it can be closed.
func TestSpoolSourcePanics(t *testing.T) {
	s := newTestSpool(t, nil, spoolInMemory)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _ = s.Drain(1)
	}()
	s.Close()
}
