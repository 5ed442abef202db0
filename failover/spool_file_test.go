// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestSpoolFileIsGone(t *testing.T) {
	dir := t.TempDir()
	s := NewSpool(io.NopCloser(bytes.NewReader(spoolBody(9000))), nil, SpoolConfig{Memory: 10, File: 9000, Dir: dir})
	r := mustSpoolReader(t, s)
	_, _ = io.ReadAll(r)
	f := s.file.f
	if st, err := f.Stat(); err != nil || st.Size() != 8990 {
		t.Errorf("file: got %v, %v; want 8990 bytes", st, err)
	}
	if runtime.GOOS != "windows" {
		spoolDirEmpty(t, dir)
	}
	s.Close()
	spoolDirEmpty(t, dir)
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("file: got %v, want it closed", err)
	}
}

// A file that could not be removed at once is removed in the end, by whoever
// uses it last.
func TestSpoolFileStillNamed(t *testing.T) {
	dir := t.TempDir()
	raw, err := os.CreateTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	f := &spoolFile{f: raw, named: true}
	f.users.Store(1)
	f.hold().letGo()
	if _, err := raw.Stat(); err != nil {
		t.Errorf("still in use: %v", err)
	}
	f.letGo()
	spoolDirEmpty(t, dir)
}

func spoolDirEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

// A file that cannot be made costs the ability to send again, not the request.
func TestSpoolUnwritableDir(t *testing.T) {
	body := spoolBody(100_000)
	for _, memory := range []int64{0, 10_000} {
		dir := filepath.Join(t.TempDir(), "missing")
		s := newTestSpool(t, bytes.NewReader(body), SpoolConfig{Memory: memory, File: 1 << 20, Dir: dir})
		r := mustSpoolReader(t, s)
		got := spoolReadN(t, r, 50_000)
		if s.Whole() {
			t.Error("got whole")
		}
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(append(got, rest...), body) {
			t.Errorf("got %d bytes more, %v; want the body", len(rest), err)
		}
		if spoolChunks(s) != 0 || !errors.Is(s.Overflow(), os.ErrNotExist) {
			t.Errorf("got %d chunks, overflow %v", spoolChunks(s), s.Overflow())
		}
		if _, err := s.Reader(); !errors.Is(err, ErrNotKept) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Reader: got %v", err)
		}
	}
}

// What was kept is released when it is known to be of no use, not only when the
// client sends more.
func TestSpoolOverflowReleasesAtOnce(t *testing.T) {
	for _, memory := range []int64{0, 3000} {
		gate := newSpoolGate()
		src := io.MultiReader(bytes.NewReader(spoolBody(4000)), gate)
		dir := filepath.Join(t.TempDir(), "missing")
		s := newTestSpool(t, src, SpoolConfig{Memory: memory, File: 1 << 20, Dir: dir})
		r := mustSpoolReader(t, s)
		spoolReadN(t, r, 4000)
		next := spoolGo(r, 8)
		<-gate.entered
		s.mu.Lock()
		if len(s.mem.chunks) > s.mem.passed || s.window != nil || !s.lost {
			t.Error("still kept while waiting for the client")
		}
		s.mu.Unlock()
		gate.give <- spoolGift{"!", io.EOF}
		if got := <-next; got != (spoolRead{"!", io.EOF}) {
			t.Errorf("got %v", got)
		}
	}
}

// A file that was made while the spool was closed does not stay.
func TestSpoolClosedWhileMakingFile(t *testing.T) {
	dir := t.TempDir()
	s := newTestSpool(t, nil, SpoolConfig{File: 100, Dir: dir})
	s.Close()
	s.mu.Lock()
	err := s.storeInFileLocked([]byte("late"), 0)
	f := s.unwanted.f
	s.unlock()
	if _, statErr := f.Stat(); err != nil || s.file != nil || !errors.Is(statErr, os.ErrClosed) {
		t.Errorf("got %v, file %v, %v; want it closed", err, s.file, statErr)
	}
	spoolDirEmpty(t, dir)
}

// A disk that fills up costs the ability to send again, not the request.
func TestSpoolDiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs /dev/full:", err)
	}
	body := spoolBody(100_000)
	s := newTestSpool(t, bytes.NewReader(body), SpoolConfig{Memory: 10_000, File: 1 << 20})
	s.file = &spoolFile{f: full}
	s.file.users.Store(1)
	got, err := io.ReadAll(mustSpoolReader(t, s))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, %v; want the body", len(got), err)
	}
	if s.Whole() || spoolChunks(s) != 0 || spoolHasFile(s) || !errors.Is(s.Overflow(), syscall.ENOSPC) {
		t.Errorf("got whole %v, %d chunks, overflow %v", s.Whole(), spoolChunks(s), s.Overflow())
	}
}

// If the reader is fenced while the file is written, the next one misses
// nothing, whether the writing succeeds, fails, or keeping is given up meanwhile.
func TestSpoolFencedWhileStoring(t *testing.T) {
	for _, tc := range []struct {
		name           string
		dir            string
		abandon, whole bool
	}{
		{"written", t.TempDir(), false, true},
		{"not written", filepath.Join(t.TempDir(), "missing"), false, false},
		{"abandoned", t.TempDir(), true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gate := newSpoolGate()
			src := io.MultiReader(strings.NewReader("body"), gate)
			s := newTestSpool(t, src, SpoolConfig{Memory: 2, File: 100, Dir: tc.dir})
			spoolReadN(t, mustSpoolReader(t, s), 4)
			two := mustSpoolReader(t, s)
			if tc.abandon {
				s.Abandon()
			}
			s.flight = true
			s.fetch() // as if asked for by the first reader; must not reach the gate
			got := spoolReadN(t, two, 4)
			rest := spoolGo(two, 8)
			<-gate.entered
			gate.give <- spoolGift{"!", io.EOF}
			if all := string(got) + (<-rest).data; all != "body!" || s.Whole() != tc.whole {
				t.Errorf("got %q, whole %v; want body!, %v", all, s.Whole(), tc.whole)
			}
		})
	}
}

// A file that cannot be read back ends the attempt, and is not the client's
// fault.
func TestSpoolUnreadableFile(t *testing.T) {
	s := newTestSpool(t, bytes.NewReader(spoolBody(20_000)), SpoolConfig{File: 20_000})
	spoolReadN(t, mustSpoolReader(t, s), 5000)
	_ = s.file.f.Truncate(10)
	if _, err := io.ReadAll(mustSpoolReader(t, s)); !errors.Is(err, ErrNotKept) || s.SourceErr() != nil {
		t.Errorf("got %v, source error %v; want ErrNotKept", err, s.SourceErr())
	}
	if _, err := s.Reader(); !errors.Is(err, ErrNotKept) {
		t.Errorf("Reader: got %v, want ErrNotKept", err)
	}
}
