// SPDX-License-Identifier: Apache-2.0

// The held start of a response, with sources that say exactly what comes when.

package failover_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/resetguard/caddy-resetguard/failover"
)

var errBroken = errors.New("the origin broke off")

// part is what one read of a source gives. A part with a gate waits for it.
type part struct {
	data string
	err  error
	gate <-chan struct{}
}

// script is a body that comes in parts. After the last it is at its end, or
// says its last error again, as net/http's bodies do.
type script struct {
	parts  []part
	reads  []string // the goroutines that read
	closes int
	closed chan struct{}
	once   sync.Once
}

func newScript(parts ...part) *script {
	return &script{parts: parts, closed: make(chan struct{})}
}

var errClosed = errors.New("read on a closed body")

func (s *script) Read(p []byte) (int, error) {
	s.reads = append(s.reads, goroutine())
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	now := &s.parts[0]
	if now.gate != nil {
		select {
		case <-now.gate:
		case <-s.closed:
			return 0, errClosed
		}
	}
	n := copy(p, now.data)
	if now.data = now.data[n:]; now.data != "" {
		return n, nil
	}
	if now.err == nil || now.err == io.EOF {
		s.parts = s.parts[1:]
		if now.err == io.EOF {
			s.parts = nil
		}
	}
	return n, now.err
}

func (s *script) Close() error {
	s.closes++
	s.once.Do(func() { close(s.closed) })
	return nil
}

// goroutine names the goroutine that calls it.
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	return string(name)
}

// diary is a watcher.
type diary []string

func (d *diary) BodyStarted() { *d = append(*d, "started") }

func (d *diary) BodyEnded(received int64, err error) {
	*d = append(*d, fmt.Sprintf("ended after %d: %v", received, err))
}

func (d *diary) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(*d, want) {
		t.Errorf("the watcher was told %q, want %q", *d, want)
	}
}

func readAll(t *testing.T, b *failover.Body, want string, wantErr error) {
	t.Helper()
	if got, err := io.ReadAll(b); string(got) != want || !errors.Is(err, wantErr) {
		t.Errorf("got %d bytes, %v; want %d, %v (same: %v)", len(got), err, len(want), wantErr, string(got) == want)
	}
}

const forever = time.Hour // longer than any test

// All limits around those of the pooled buffers, with bodies around the limits.
func TestHoldReady(t *testing.T) {
	for _, limit := range []int{1, 4<<10 - 1, 4 << 10, 4<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		for _, size := range []int{1, limit - 1, limit, limit + 1, 2*limit + 100} {
			if size == 0 {
				continue
			}
			body := text(size)
			src, told := newScript(part{data: body}), diary(nil)
			var b failover.Body
			b.Watch(src, &told)
			if err := b.Hold(int64(limit), int64(size), int64(size), forever); err != nil {
				t.Fatalf("limit %d, size %d: %v", limit, size, err)
			}
			held := len(src.reads)
			told.expect(t)
			readAll(t, &b, body, nil)
			told.expect(t, "started", fmt.Sprintf("ended after %d: <nil>", size))
			if err := b.Close(); err != nil || src.closes != 1 {
				t.Errorf("closing: %v, %d times", err, src.closes)
			}
			if held != 1 || slices.ContainsFunc(src.reads, func(g string) bool { return g != goroutine() }) {
				t.Errorf("limit %d, size %d: %d reads while holding, from goroutines %v; want one, and this", limit, size, held, src.reads)
			}
		}
	}
}

// text is n bytes, each of which tells roughly where it belongs.
func text(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:n]
}

func TestHoldReadyDoesNotAllocate(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 3000)
	buf := make([]byte, 4096)
	src := &refill{}
	var b failover.Body
	var failed error
	n := testing.AllocsPerRun(1000, func() {
		src.Reset(body)
		b = failover.Body{}
		b.Watch(src, nil)
		if err := b.Hold(failover.DefaultHoldBytes, 3000, 3000, forever); err != nil {
			failed = err
		}
		if n, err := b.Read(buf); n != 3000 || err != nil {
			failed = fmt.Errorf("got %d bytes, %w", n, err)
		}
		if _, err := b.Read(buf); err != io.EOF {
			failed = fmt.Errorf("after the end: %w", err)
		}
		_ = b.Close()
	})
	if failed != nil {
		t.Fatal(failed)
	}
	if n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

type refill struct{ bytes.Reader }

func (*refill) Close() error { return nil }

// Nothing is held, and nothing read, if there is no limit or no body.
func TestHoldNothing(t *testing.T) {
	for _, tc := range []struct{ limit, length int64 }{{0, 10}, {-1, 10}, {100, 0}} {
		src, told := newScript(part{data: "hello"}), diary(nil)
		var b failover.Body
		b.Watch(src, &told)
		if err := b.Hold(tc.limit, tc.length, 5, forever); err != nil || len(src.reads) != 0 {
			t.Errorf("limit %d, length %d: got %v after %d reads, want none", tc.limit, tc.length, err, len(src.reads))
		}
		readAll(t, &b, "hello", nil)
		told.expect(t, "started", "ended after 5: <nil>")
	}
}

// A body is complete when its length has come: the end need not be waited for.
func TestHoldEndsWithTheLength(t *testing.T) {
	never := make(chan struct{})
	src := newScript(part{data: "hel"}, part{data: "lo"}, part{gate: never})
	var b failover.Body
	b.Watch(src, nil)
	if err := b.Hold(100, 5, 0, forever); err != nil {
		t.Fatal(err)
	}
	if got := make([]byte, 5); !fills(&b, got) || string(got) != "hello" {
		t.Errorf("got %q", got)
	}
	_ = b.Close()
}

func fills(r io.Reader, p []byte) bool {
	_, err := io.ReadFull(r, p)
	return err == nil
}

// Of a body of unknown length the end is held as well, and is told when it is
// reached, not when it came.
func TestHoldUnknownLength(t *testing.T) {
	for name, src := range map[string]*script{
		"end by itself":      newScript(part{data: "hel"}, part{data: "lo"}),
		"end with last part": newScript(part{data: "hel"}, part{data: "lo", err: io.EOF}),
	} {
		t.Run(name, func(t *testing.T) {
			told := diary(nil)
			var b failover.Body
			b.Watch(src, &told)
			if err := b.Hold(100, -1, 0, forever); err != nil {
				t.Fatal(err)
			}
			told.expect(t)
			if n, err := b.Read(make([]byte, 2)); n != 2 || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			told.expect(t, "started")
			readAll(t, &b, "llo", nil)
			told.expect(t, "started", "ended after 5: <nil>")
		})
	}
}

// What breaks off within the held part is Hold's answer: the response can be
// thrown away.
func TestHoldBrokenWithin(t *testing.T) {
	for _, tc := range []struct {
		name          string
		parts         []part
		length, ready int64
	}{
		{"while waiting", []part{{data: "hel"}, {err: errBroken}}, 10, 0},
		{"with the last bytes", []part{{data: "hel", err: errBroken}}, 10, 0},
		{"unknown length", []part{{data: "hel"}, {err: errBroken}}, -1, 0},
		{"at once", []part{{err: errBroken}}, 10, 0},
		{"within what is ready", []part{{data: "hel", err: errBroken}}, 10, 10},
		{"after what is ready", []part{{data: "hel"}, {err: errBroken}}, 10, 3},
		{"cut", []part{{data: "hel"}, {err: io.ErrUnexpectedEOF}}, 10, 0},
	} {
		test := func(t *testing.T) {
			src, told := newScript(tc.parts...), diary(nil)
			var b failover.Body
			b.Watch(src, &told)
			err := b.Hold(unpooledHold, tc.length, tc.ready, forever)
			if want := tc.parts[len(tc.parts)-1].err; err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			told.expect(t)
			_ = b.Close()
			told.expect(t, "ended after 0: "+failover.ErrUnread.Error())
		}
		t.Run(tc.name, func(t *testing.T) {
			if tc.length < 0 {
				// Nothing is late, which would be taken for a pause: not by the clock,
				// and on one processor not by the number of looks either.
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
				synctest.Test(t, test)
				return
			}
			test(t)
		})
	}
}

// What breaks off after it is told in its place, after all bytes before it.
func TestHoldBrokenAfter(t *testing.T) {
	src, told := newScript(part{data: "hello, "}, part{data: "wor"}, part{err: errBroken}), diary(nil)
	var b failover.Body
	b.Watch(src, &told)
	if err := b.Hold(5, 100, 0, forever); err != nil {
		t.Fatal(err)
	}
	readAll(t, &b, "hello, wor", errBroken)
	_ = b.Close()
	told.expect(t, "started", "ended after 10: the origin broke off")
}

// unpooledHold is above the limits of the pools: what is made in a bubble must not
// leave it. (A body whose length is known is held in a buffer of that length.)
const unpooledHold = failover.DefaultHoldBytes + 2

// The patience is exact, and what comes after it is read on.
func TestHoldPatience(t *testing.T) {
	const long = unpooledHold
	for _, tc := range []struct {
		name   string
		length int64
		after  time.Duration // when the second part comes
		err    error
		held   time.Duration
		want   error
	}{
		{"in time", long, 10 * time.Millisecond, io.EOF, 10 * time.Millisecond, nil},
		{"too late", long, 60 * time.Millisecond, io.EOF, 25 * time.Millisecond, nil},
		{"broken in time", long, 10 * time.Millisecond, errBroken, 10 * time.Millisecond, errBroken},
		{"broken too late", long, 60 * time.Millisecond, errBroken, 25 * time.Millisecond, nil},
		{"no length, a pause", -1, time.Millisecond, io.EOF, 0, nil},
		{"no length, broken after a pause", -1, time.Millisecond, errBroken, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				time.AfterFunc(tc.after, func() { close(gate) })
				src, told := newScript(part{data: "first "}, part{data: "second", err: tc.err, gate: gate}), diary(nil)
				var b failover.Body
				b.Watch(src, &told)
				began := time.Now()
				err := b.Hold(failover.DefaultHoldBytes+1, tc.length, 0, 25*time.Millisecond)
				if took := time.Since(began); err != tc.want || took != tc.held {
					t.Errorf("got %v after %v, want %v after %v", err, took, tc.want, tc.held)
				}
				if tc.want != nil {
					_ = b.Close()
					return
				}
				var broken error
				if tc.err != io.EOF {
					broken = tc.err
				}
				readAll(t, &b, "first second", broken)
				told.expect(t, "started", fmt.Sprintf("ended after 12: %v", broken))
				if took := time.Since(began); took != tc.after {
					t.Errorf("the body took %v, want %v", took, tc.after)
				}
			})
		})
	}
}

// A released body gives what it has at once, while its goroutine still waits.
func TestHoldReleasedGivesWhatItHas(t *testing.T) {
	gate := make(chan struct{})
	src := newScript(part{data: "first "}, part{data: "second", gate: gate}, part{data: " third"})
	var b failover.Body
	b.Watch(src, nil)
	if err := b.Hold(1000, -1, 0, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := b.Read(buf); string(buf[:n]) != "first " || err != nil {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	close(gate)
	readAll(t, &b, "second third", nil)
}

// Closing ends the read that is under way, and the goroutine with it.
func TestHoldCloseWhilePending(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, read := range []bool{false, true} {
		src, told := newScript(part{data: "first"}, part{gate: make(chan struct{})}), diary(nil)
		var b failover.Body
		b.Watch(src, &told)
		if err := b.Hold(1000, -1, 0, time.Millisecond); err != nil {
			t.Fatal(err)
		}
		want := []string{"ended after 0: " + failover.ErrUnread.Error()}
		if read {
			if _, err := b.Read(make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			want = []string{"started", "ended after 5: " + failover.ErrUnread.Error()}
		}
		if err := b.Close(); err != nil || src.closes != 1 {
			t.Errorf("closing: %v, %d times", err, src.closes)
		}
		told.expect(t, want...)
	}
}
