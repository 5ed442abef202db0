// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// spoolTrailerSource fills in the trailer when it ends, as net/http's server
// bodies and Caddy's wrapper of them do.
type spoolTrailerSource struct {
	io.Reader
	trailer http.Header
}

func (s spoolTrailerSource) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		clear(s.trailer)
		s.trailer["Digest"] = []string{"x"}
		s.trailer["Unannounced"] = []string{"y"}
	}
	return n, err
}

func (spoolTrailerSource) Close() error { return nil }

func TestSpoolTrailer(t *testing.T) {
	original := http.Header{"Digest": nil}
	s := NewSpool(spoolTrailerSource{strings.NewReader("body"), original}, original, spoolInMemory)
	defer s.Close()
	one := mustSpoolReader(t, s)
	early := mustSpoolReader(t, s).Trailer()
	if _, err := io.ReadAll(mustSpoolReader(t, s)); err != nil {
		t.Fatal(err)
	}
	late := mustSpoolReader(t, s)
	if _, announced := late.Trailer()["Digest"]; !announced || len(late.Trailer()) != 1 {
		t.Errorf("made after the end: got %v, want the announced key only", late.Trailer())
	}
	if _, err := io.ReadAll(late); err != nil {
		t.Fatal(err)
	}
	if got := late.Trailer(); got.Get("Digest") != "x" || got.Get("Unannounced") != "y" || len(got) != 2 {
		t.Errorf("after EOF: got %v", got)
	}
	late.Trailer().Set("Digest", "changed")
	if one.Trailer().Get("Digest") != "x" || original.Get("Digest") != "x" {
		t.Error("the first attempt's trailer is not the original, or is shared")
	}
	if v, announced := early["Digest"]; !announced || v != nil {
		t.Errorf("an attempt that did not reach the end: got %v", early)
	}
}

// The end may come in a read of its own, also for an attempt that read nothing.
func TestSpoolTrailerOfEmptyBody(t *testing.T) {
	original := http.Header{}
	s := NewSpool(spoolTrailerSource{strings.NewReader(""), original}, original, spoolInMemory)
	defer s.Close()
	for attempt := range 3 {
		r := mustSpoolReader(t, s)
		if _, err := r.Read(make([]byte, 1)); err != io.EOF || r.Trailer().Get("Digest") != "x" {
			t.Errorf("attempt %d: got %v, %v", attempt, err, r.Trailer())
		}
	}
}

func TestSpoolWithoutTrailer(t *testing.T) {
	for _, original := range []http.Header{nil, {}} {
		s := NewSpool(http.NoBody, original, spoolInMemory)
		for range 2 {
			r := mustSpoolReader(t, s)
			if got := r.Trailer(); (got == nil) != (original == nil) || len(got) > 0 {
				t.Errorf("got %v, want %v", got, original)
			}
			if _, err := io.ReadAll(r); err != nil {
				t.Error(err)
			}
		}
		s.Close()
	}
}

// A read of the file that ends after the reader was fenced counts for nothing,
// whatever it gave.
func TestSpoolFencedWhileReadingFile(t *testing.T) {
	for _, size := range []int64{4096, 10} {
		s := newTestSpool(t, strings.NewReader(string(spoolBody(5000))), SpoolConfig{File: 5000})
		spoolReadN(t, mustSpoolReader(t, s), 5000)
		stale := mustSpoolReader(t, s)
		_ = s.file.f.Truncate(size)
		mustSpoolReader(t, s)
		s.mu.Lock()
		n, err := stale.takeLocked(make([]byte, 100))
		s.unlock()
		if n != 0 || err != ErrFenced || !s.Whole() {
			t.Errorf("got %d, %v, whole %v; want ErrFenced, whole", n, err, s.Whole())
		}
	}
}
