// SPDX-License-Identifier: Apache-2.0

// What a watched connection counts, remembers and passes on.

package health

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// tcpPair returns a connection with its peer.
func tcpPair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = peer.Close()
	})
	return c.(*net.TCPConn), peer.(*net.TCPConn)
}

func resetTCP(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// splicer notes what the kernel is asked to send by itself.
type splicer struct {
	*net.TCPConn
	from io.Reader
}

func (s *splicer) ReadFrom(r io.Reader) (int64, error) {
	s.from = r
	return s.TCPConn.ReadFrom(r)
}

func TestConnReadFrom(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	file := func(t *testing.T) *os.File {
		name := filepath.Join(t.TempDir(), "body")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	socket := func(t *testing.T) *net.TCPConn {
		from, to := tcpPair(t)
		go func() {
			_, _ = to.Write(content)
			_ = to.Close()
		}()
		return from
	}
	for _, tc := range []struct {
		name    string
		source  func(t *testing.T) io.Reader
		size    int
		spliced bool
	}{
		{"file", func(t *testing.T) io.Reader { return file(t) }, len(content), true},
		{"part of a file", func(t *testing.T) io.Reader { return io.LimitReader(file(t), 1000) }, 1000, true},
		{"socket", func(t *testing.T) io.Reader { return socket(t) }, len(content), true},
		{"plain reader", func(*testing.T) io.Reader { return bytes.NewReader(content) }, len(content), false},
		{"part of a plain reader", func(*testing.T) io.Reader { return io.LimitReader(bytes.NewReader(content), 1000) }, 1000, false},
		{"nothing", func(*testing.T) io.Reader { return bytes.NewReader(nil) }, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, peer := tcpPair(t)
			under := &splicer{TCPConn: raw}
			c := WatchConn(under)
			got := make(chan []byte)
			go func() {
				all, _ := io.ReadAll(peer)
				got <- all
			}()
			n, err := c.ReadFrom(tc.source(t))
			if err != nil || n != int64(tc.size) || c.Sent() != int64(tc.size) {
				t.Errorf("got %d bytes, %d counted, %v; want %d", n, c.Sent(), err, tc.size)
			}
			if spliced := under.from != nil; spliced != tc.spliced {
				t.Errorf("the kernel was asked: %v, want %v", spliced, tc.spliced)
			}
			_ = c.CloseWrite()
			if all := <-got; !bytes.Equal(all, content[:tc.size]) {
				t.Errorf("the peer got %d bytes that are not the content", len(all))
			}
			if end := c.End(); end.Kind != Alive {
				t.Errorf("got end %v: %v, want none", end.Kind, end.Err)
			}
		})
	}
}

// While the kernel sends by itself the count is not yet right, but it is not
// zero: a request of which nothing was sent may be sent again.
func TestConnReadFromUnderWay(t *testing.T) {
	raw, peer := tcpPair(t)
	source, feed := tcpPair(t)
	c := WatchConn(raw)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.ReadFrom(source)
	}()
	if _, err := feed.Write([]byte("part")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if c.Sent() == 0 {
		t.Error("nothing is counted although the peer has got 4 bytes")
	}
	_ = feed.Close()
	<-done
	if got := c.Sent(); got != 4 {
		t.Errorf("got %d bytes counted, want 4", got)
	}
}

func TestConnPassesOn(t *testing.T) {
	raw, peer := tcpPair(t)
	c := WatchConn(raw)
	if WatchConn(c) != c {
		t.Error("wrapping again made another Conn")
	}
	if c.NetConn() != net.Conn(raw) {
		t.Error("NetConn is not the wrapped connection")
	}
	if rc, err := c.SyscallConn(); err != nil || rc.Control(func(uintptr) {}) != nil {
		t.Errorf("SyscallConn: %v", err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Errorf("CloseWrite: %v", err)
	}
	if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer read %d bytes, %v; want EOF", n, err)
	}
	if _, err := peer.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 100)); n != 10 || err != nil || c.Received() != 10 {
		t.Errorf("got %d bytes, %d counted, %v; want 10 after CloseWrite", n, c.Received(), err)
	}
}

func TestConnWithoutAbilities(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	defer func() { _ = far.Close() }()
	c := WatchConn(near)
	if err := c.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite: got %v, want %v", err, errors.ErrUnsupported)
	}
	if _, err := c.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SyscallConn: got %v, want %v", err, errors.ErrUnsupported)
	}
	go func() { _, _ = io.Copy(io.Discard, far) }()
	if n, err := c.ReadFrom(bytes.NewReader(make([]byte, 100))); n != 100 || err != nil || c.Sent() != 100 {
		t.Errorf("ReadFrom: got %d bytes, %d counted, %v; want 100", n, c.Sent(), err)
	}
}

// around is a connection around another.
type around struct {
	net.Conn
	inner net.Conn
}

func (a *around) NetConn() net.Conn { return a.inner }

func TestUnwrap(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	defer func() { _ = far.Close() }()
	c := WatchConn(near)
	cycle := &around{}
	cycle.inner = cycle
	for _, tc := range []struct {
		name string
		conn net.Conn
		want *Conn
	}{
		{"none", nil, nil},
		{"itself", c, c},
		{"around it", &around{inner: c}, c},
		{"around what is around it", &around{inner: &around{inner: c}}, c},
		{"around nothing", &around{}, nil},
		{"not watched", near, nil},
		{"around what is not watched", &around{inner: near}, nil},
		{"cycle", cycle, nil},
	} {
		if got := Unwrap(tc.conn); got != tc.want {
			t.Errorf("%s: got %p, want %p", tc.name, got, tc.want)
		}
	}
}

func TestConnEndIsTheFirst(t *testing.T) {
	past := time.Unix(1, 0)
	read := func(c *Conn) { _, _ = c.Read(make([]byte, 1)) }
	write := func(c *Conn) { _, _ = c.Write([]byte{1}) }
	for _, tc := range []struct {
		name string
		do   func(c *Conn, peer *net.TCPConn)
		want EndKind
	}{
		{"nothing happened", func(*Conn, *net.TCPConn) {}, Alive},
		{"reset", func(c *Conn, peer *net.TCPConn) { resetTCP(peer); read(c) }, EndReset},
		{"close", func(c *Conn, peer *net.TCPConn) { _ = peer.Close(); read(c) }, EndFIN},
		{"own close", func(c *Conn, _ *net.TCPConn) { _ = c.Close(); read(c) }, EndLocal},
		{"deadline", func(c *Conn, _ *net.TCPConn) { _ = c.SetDeadline(past); read(c) }, EndTimer},
		{"reset, then own close", func(c *Conn, peer *net.TCPConn) { resetTCP(peer); read(c); _ = c.Close(); write(c) }, EndReset},
		{"close, then own close", func(c *Conn, peer *net.TCPConn) { _ = peer.Close(); read(c); _ = c.Close(); write(c) }, EndFIN},
		{"own close, then a write", func(c *Conn, peer *net.TCPConn) { _ = c.Close(); read(c); _ = peer.Close(); write(c) }, EndLocal},
		{"deadline, then reset", func(c *Conn, peer *net.TCPConn) {
			_ = c.SetDeadline(past)
			read(c)
			_ = c.SetDeadline(time.Time{})
			resetTCP(peer)
			read(c)
		}, EndReset},
		{"deadline, then close, then own close", func(c *Conn, peer *net.TCPConn) {
			_ = c.SetDeadline(past)
			read(c)
			_ = c.SetDeadline(time.Time{})
			_ = peer.Close()
			read(c)
			_ = c.Close()
			write(c)
		}, EndFIN},
		{"deadline, then own close", func(c *Conn, _ *net.TCPConn) { _ = c.SetDeadline(past); read(c); _ = c.Close(); read(c) }, EndTimer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, peer := tcpPair(t)
			c := WatchConn(raw)
			before := time.Now()
			tc.do(c, peer)
			end := c.End()
			if end.Kind != tc.want {
				t.Fatalf("got %v: %v, want %v", end.Kind, end.Err, tc.want)
			}
			if end.Kind != Alive && (end.Err == nil || end.At.Before(before) || end.At.After(time.Now())) {
				t.Errorf("got error %v at %v", end.Err, end.At)
			}
		})
	}
}

func TestConnCountsWhatWasWritten(t *testing.T) {
	raw, peer := tcpPair(t)
	c := WatchConn(raw)
	if n, err := c.Write(nil); n != 0 || err != nil || c.Sent() != 0 {
		t.Errorf("empty write: got %d, %v, %d counted", n, err, c.Sent())
	}
	if _, err := c.Write(make([]byte, 10)); err != nil || c.Sent() != 10 {
		t.Errorf("got %d counted, %v; want 10", c.Sent(), err)
	}
	resetTCP(peer)
	_, _ = c.Read(make([]byte, 1))
	if n, err := c.Write(make([]byte, 100)); n != 0 || err == nil || c.Sent() != 10 {
		t.Errorf("write after a reset: got %d, %v, %d counted; want an error and 10", n, err, c.Sent())
	}
}

func TestConnHook(t *testing.T) {
	raw, peer := tcpPair(t)
	c := WatchConn(raw)
	var first, second, late atomic.Int32
	one := &EndHook{F: func() { first.Add(1) }}
	two := &EndHook{F: func() { second.Add(1) }}
	c.Hook(one)
	c.Hook(two) // instead of the first
	c.Unhook(one)
	resetTCP(peer)
	for range 3 {
		_, _ = c.Read(make([]byte, 1))
	}
	if first.Load() != 0 || second.Load() != 1 {
		t.Errorf("got %d and %d calls, want 0 of the one replaced and 1 of the other", first.Load(), second.Load())
	}
	c.Hook(&EndHook{F: func() { late.Add(1) }})
	if late.Load() != 1 {
		t.Errorf("got %d calls of a hook on a connection that has ended, want 1 at once", late.Load())
	}
	c.Hook(nil)
}
