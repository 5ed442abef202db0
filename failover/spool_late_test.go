// SPDX-License-Identifier: Apache-2.0

// Reads that end after their attempt is over, and readers that wait for them.

package failover

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A reader that waits for a read of the source wakes up when it is fenced, also
// if it asked for that read, and when the read has brought something.
func TestSpoolWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := newTestSpool(t, gate, spoolInMemory)
		one := mustSpoolReader(t, s)
		first := spoolGo(one, 8)
		<-gate.entered
		two := mustSpoolReader(t, s)
		second := spoolGo(two, 8)
		synctest.Wait()
		_ = two.Close()
		if got := <-second; got.err != ErrFenced {
			t.Errorf("closed while waiting: got %v, want ErrFenced", got)
		}
		three := mustSpoolReader(t, s)
		third := spoolGo(three, 8)
		synctest.Wait()
		fourth := spoolGo(mustSpoolReader(t, s), 8)
		if got := <-third; got.err != ErrFenced {
			t.Errorf("replaced while waiting: got %v, want ErrFenced", got)
		}
		synctest.Wait()
		if got := <-first; got != (spoolRead{"", ErrFenced}) {
			t.Errorf("fenced while its read was under way: got %v, want ErrFenced", got)
		}
		gate.give <- spoolGift{"late", nil}
		if got := <-fourth; got != (spoolRead{"late", nil}) {
			t.Errorf("waiting: got %v, want what the late read brought", got)
		}
	})
}

// An end that a read for a fenced reader finds belongs to the body as well, and
// a read that finds nothing lets the one that waits read.
func TestSpoolLateEnd(t *testing.T) {
	for _, end := range []error{io.EOF, errSpoolClient, nil} {
		synctest.Test(t, func(t *testing.T) {
			gate := newSpoolGate()
			s := newTestSpool(t, gate, spoolInMemory)
			stale := spoolGo(mustSpoolReader(t, s), 8)
			<-gate.entered
			next := spoolGo(mustSpoolReader(t, s), 8)
			synctest.Wait()
			gate.give <- spoolGift{"", end}
			<-stale
			want := spoolRead{"", end}
			if end == nil {
				<-gate.entered
				want.data = "x"
				gate.give <- spoolGift{"x", nil}
			}
			if got := <-next; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// What a read brings after its attempt is over is there for the next attempt,
// wherever it has to go, and the stale reader does not wait for it.
func TestSpoolLateBytes(t *testing.T) {
	for _, tc := range []struct {
		name     string
		cfg      SpoolConfig
		abandon  bool // before anything is read
		overflow bool
	}{
		{"memory", SpoolConfig{Memory: 100}, false, false},
		{"file", SpoolConfig{Memory: 4, File: 100}, false, false},
		{"file only", SpoolConfig{File: 100}, false, false},
		{"across", SpoolConfig{Memory: 2, File: 100}, false, false},
		{"exactly room", SpoolConfig{Memory: 10}, false, false},
		{"no room", SpoolConfig{Memory: 4}, false, true},
		{"nothing is kept", SpoolConfig{}, false, false},
		{"abandoned", SpoolConfig{Memory: 100}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gate := newSpoolGate()
			src := io.MultiReader(strings.NewReader("body"), gate, strings.NewReader("!"))
			want := "body late!"
			if tc.abandon || tc.cfg.limit() == 0 {
				src, want = io.MultiReader(gate, strings.NewReader("!")), " late!"
			}
			s := newTestSpool(t, src, tc.cfg)
			if tc.abandon {
				s.Abandon()
			}
			one := mustSpoolReader(t, s)
			spoolReadN(t, one, len(want)-len(" late!"))
			stale := spoolGo(one, 8)
			<-gate.entered
			_ = one.Close()
			if got := <-stale; got != (spoolRead{"", ErrFenced}) {
				t.Errorf("stale: got %v, want ErrFenced", got)
			}
			_ = mustSpoolReader(t, s).Close()
			gate.give <- spoolGift{" late", io.EOF}
			if spoolChunks(s) == 0 { // waits until they are there, between attempts
				t.Error("dropped")
			}
			if got, err := io.ReadAll(mustSpoolReader(t, s)); err != nil || string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
			if s.Whole() == (tc.abandon || tc.overflow || tc.cfg.limit() == 0) {
				t.Errorf("afterwards: got whole %v", s.Whole())
			}
			if (s.Overflow() != nil) != tc.overflow {
				t.Errorf("overflow: got %v", s.Overflow())
			}
		})
	}
}

// Late bytes reach the live reader although keeping was given up before they
// came and all else was released.
func TestSpoolAbandonWhileLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cfg := range []SpoolConfig{{Memory: 100}, {Memory: 4, File: 100}, {Memory: 2, File: 100}} {
			gate := newSpoolGate()
			s := newTestSpool(t, io.MultiReader(strings.NewReader("body"), gate, strings.NewReader("!")), cfg)
			one := mustSpoolReader(t, s)
			spoolReadN(t, one, 2)
			spoolReadN(t, one, 2)
			stale := spoolGo(one, 8)
			<-gate.entered
			two := mustSpoolReader(t, s)
			got := spoolReadN(t, two, 4)
			s.Abandon()
			if len(s.mem.chunks) > s.mem.passed || s.file != nil {
				t.Error("passed, but still kept")
			}
			next := spoolGo(two, 8)
			synctest.Wait()
			gate.give <- spoolGift{" late", io.EOF}
			<-stale
			got = append(got, (<-next).data...)
			rest, err := io.ReadAll(two)
			if all := string(got) + string(rest); all != "body late!" || err != nil {
				t.Errorf("got %q, %v", all, err)
			}
			if spoolChunks(s) != 0 || spoolHasFile(s) {
				t.Error("passed, but the late bytes are still there")
			}
		}
	})
}

func TestSpoolCloseWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := NewSpool(gate, nil, spoolInMemory)
		stale := spoolGo(mustSpoolReader(t, s), 8)
		<-gate.entered
		next := spoolGo(mustSpoolReader(t, s), 8)
		synctest.Wait()
		s.Close()
		s.Close()
		if got := <-next; got.err != ErrFenced {
			t.Errorf("waiting: got %v, want ErrFenced", got)
		}
		gate.give <- spoolGift{"dropped", nil}
		if got := <-stale; got != (spoolRead{"", ErrFenced}) {
			t.Errorf("reading: got %v, want ErrFenced", got)
		}
		if spoolChunks(s) != 0 || s.Whole() {
			t.Error("kept after Close")
		}
		if _, err := s.Reader(); !errors.Is(err, ErrNotKept) {
			t.Errorf("Reader: got %v, want ErrNotKept", err)
		}
		if _, err := s.Drain(1); err != ErrFenced {
			t.Errorf("Drain: got %v, want ErrFenced", err)
		}
	})
}

func TestSpoolDrainWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := newTestSpool(t, io.MultiReader(gate, strings.NewReader("rest")), spoolInMemory)
		stale := spoolGo(mustSpoolReader(t, s), 8)
		<-gate.entered
		var n int64
		var err error
		drained := make(chan struct{})
		go func() {
			n, err = s.Drain(100)
			close(drained)
		}()
		synctest.Wait()
		gate.give <- spoolGift{"late", io.EOF}
		<-drained
		if got := <-stale; got.err != ErrFenced {
			t.Errorf("stale: got %v, want ErrFenced", got)
		}
		if n != 4 || err != nil || s.Received() != 8 {
			t.Errorf("got %d, %v, received %d; want 4, nil, 8", n, err, s.Received())
		}
	})
}

// A limit of 0 waits for the read under way and does nothing else.
func TestSpoolDrainNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := newTestSpool(t, gate, spoolInMemory)
		spoolGo(mustSpoolReader(t, s), 8)
		<-gate.entered
		done := make(chan int64)
		go func() {
			n, _ := s.Drain(0)
			done <- n
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("did not wait")
		default:
		}
		gate.give <- spoolGift{"late", nil}
		if n := <-done; n != 0 {
			t.Errorf("drained %d bytes, want 0", n)
		}
	})
}

func TestSpoolDrainEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := newTestSpool(t, gate, spoolInMemory)
		done := make(chan error)
		go func() {
			_, err := s.Drain(100)
			done <- err
		}()
		<-gate.entered
		s.Close()
		gate.give <- spoolGift{"x", nil}
		if err := <-done; err != ErrFenced {
			t.Errorf("got %v, want ErrFenced", err)
		}
	})
}

// The buffer into which the source is read, or that is being stored, is not given to
// others before that has ended, also if the spool is closed meanwhile.
func TestSpoolBufferInUse(t *testing.T) {
	s := newTestSpool(t, strings.NewReader("body"), spoolInMemory)
	spoolReadN(t, mustSpoolReader(t, s), 4)
	s.mu.Lock()
	s.flight = true
	s.unlock()
	s.Close()
	if s.buf == nil {
		t.Error("given back while in use")
	}
	s.mu.Lock()
	s.landLocked()
	s.unlock()
	if s.buf != nil {
		t.Error("kept after use")
	}
}

// Settle returns when the source is let alone, and not before.
func TestSpoolSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newSpoolGate()
		s := newTestSpool(t, gate, spoolInMemory)
		s.Settle() // nothing is under way
		stale := mustSpoolReader(t, s)
		read := spoolGo(stale, 8)
		<-gate.entered
		_ = stale.Close()
		<-read
		settled := make(chan struct{})
		go func() { s.Settle(); close(settled) }()
		synctest.Wait()
		select {
		case <-settled:
			t.Error("settled in the midst of a read of the source")
		default:
		}
		gate.give <- spoolGift{"late", nil}
		<-settled
	})
}

// The error of a read that is under way is waited for, but not for long.
func TestSpoolSourceErrWithin(t *testing.T) {
	for _, tc := range []struct {
		comes, took time.Duration
		want        error
	}{
		{10 * time.Millisecond, 10 * time.Millisecond, errSpoolClient},
		{time.Second, 50 * time.Millisecond, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			src, ended := io.Pipe()
			s := newTestSpool(t, src, spoolInMemory)
			read := spoolGo(mustSpoolReader(t, s), 10)
			synctest.Wait() // the read is under way
			began := time.Now()
			time.AfterFunc(tc.comes, func() { _ = ended.CloseWithError(errSpoolClient) })
			if err := s.SourceErrWithin(50 * time.Millisecond); err != tc.want || time.Since(began) != tc.took {
				t.Errorf("got %v after %v, want %v after %v", err, time.Since(began), tc.want, tc.took)
			}
			<-read
		})
	}
}
