// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
)

// Spools together keep no more than the budget, and give it back.
func TestSpoolBudget(t *testing.T) {
	const size = 64 << 10
	body := bytes.Repeat([]byte("reset"), size/5+1)[:size]
	budget := NewSpoolBudget(size, size) // room for one body in memory, one in files
	pass := func(cfg SpoolConfig) *Spool {
		t.Helper()
		cfg.Budget, cfg.Dir = budget, t.TempDir()
		s := NewSpool(io.NopCloser(bytes.NewReader(body)), http.Header{}, cfg)
		r, err := s.Reader()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("passing the body on: got %d bytes, error %v", len(got), err)
		}
		return s
	}
	inMemory := SpoolConfig{Memory: 2 * size}
	inFile := SpoolConfig{Memory: 0, File: 2 * size}

	first, other := pass(inMemory), pass(inFile)
	if !first.Whole() || !other.Whole() {
		t.Fatalf("bodies within the budget are not kept: %v, %v", first.Overflow(), other.Overflow())
	}
	for name, cfg := range map[string]SpoolConfig{"memory": inMemory, "file": inFile} {
		s := pass(cfg)
		if s.Whole() || !errors.Is(s.Overflow(), errSpoolBudget) {
			t.Errorf("%s: a body beyond the budget: whole %v, overflow %v", name, s.Whole(), s.Overflow())
		}
		s.Close()
	}
	first.Close()
	other.Close()
	if m, f := budget.memory.Load(), budget.file.Load(); m != 0 || f != 0 {
		t.Errorf("after closing, the budget still counts %d bytes in memory and %d in files", m, f)
	}
	if s := pass(inMemory); !s.Whole() {
		t.Errorf("the budget was given back, but a body is not kept: %v", s.Overflow())
	}
}
