// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestSpoolAbandon(t *testing.T) {
	body := spoolBody(200_000)
	cfg := SpoolConfig{Memory: 100_000, File: 100_000}
	t.Run("before the first byte", func(t *testing.T) {
		s := newTestSpool(t, bytes.NewReader(body), cfg)
		s.Abandon()
		mustSpoolReader(t, s)
		r := mustSpoolReader(t, s) // nothing read: another attempt is fine
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, %v; want the body", len(got), err)
		}
		if s.Whole() || spoolChunks(s) != 0 || s.Overflow() != nil {
			t.Errorf("got whole %v, %d chunks, overflow %v", s.Whole(), spoolChunks(s), s.Overflow())
		}
	})
	t.Run("released as it is passed", func(t *testing.T) {
		s := newTestSpool(t, bytes.NewReader(body), cfg)
		spoolReadN(t, mustSpoolReader(t, s), 150_000)
		r := mustSpoolReader(t, s)
		got := spoolReadN(t, r, 40_000)
		s.Abandon()
		for _, step := range []struct{ read, chunks, file int }{
			{0, 3, 1}, // of 4 chunks two are passed; the buffer
			{59_999, 2, 1},
			{1, 1, 1},      // all memory but the buffer is passed,
			{35_167, 1, 1}, // all of the file but a byte,
			{1, 1, 0},
			{32_767, 1, 0}, // all of the buffer but a byte
			{1, 0, 0},
		} {
			got = append(got, spoolReadN(t, r, step.read)...)
			if file := spoolHasFile(s); spoolChunks(s) != step.chunks || file != (step.file == 1) {
				t.Errorf("at %d: got %d chunks, file %v; want %d, %d", len(got), spoolChunks(s), file, step.chunks, step.file)
			}
		}
		if rest, err := io.ReadAll(r); err != nil || !bytes.Equal(append(got, rest...), body) {
			t.Errorf("got %d bytes more, %v; want the body", len(rest), err)
		}
		if _, err := s.Reader(); !errors.Is(err, ErrNotKept) {
			t.Errorf("Reader: got %v, want ErrNotKept", err)
		}
	})
	for _, tc := range []struct {
		name  string
		cfg   SpoolConfig
		at    int
		whole bool
	}{
		{"within the first chunk", cfg, 4095, true},
		{"after the first chunk", cfg, 4096, false},
		{"after all memory", SpoolConfig{Memory: 100, File: 100_000}, 100, false},
		{"within the file", SpoolConfig{File: 100_000}, 36_863, true},
		{"after the file", SpoolConfig{File: 100_000}, 36_864, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTestSpool(t, bytes.NewReader(body), tc.cfg)
			spoolReadN(t, mustSpoolReader(t, s), 36_865) // all but the last is stored
			r := mustSpoolReader(t, s)
			spoolReadN(t, r, tc.at)
			s.Abandon()
			if s.Whole() != tc.whole {
				t.Errorf("got whole %v, want %v", s.Whole(), tc.whole)
			}
			_ = r.Close()
			if gone := spoolChunks(s) == 0 && !spoolHasFile(s); gone == tc.whole {
				t.Errorf("after the attempt: got all released %v, want %v", gone, !tc.whole)
			}
		})
	}
	t.Run("between attempts", func(t *testing.T) {
		s := newTestSpool(t, bytes.NewReader(body), cfg)
		r := mustSpoolReader(t, s)
		spoolReadN(t, r, 150_000)
		_ = r.Close()
		if !s.Whole() {
			t.Error("after the attempt: not whole")
		}
		s.Abandon()
		if s.Whole() || spoolChunks(s) != 0 || spoolHasFile(s) {
			t.Error("still kept")
		}
	})
}
