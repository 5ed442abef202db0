// SPDX-License-Identifier: Apache-2.0

// What only the kernel's own view of a connection tells.

package health

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// When another goroutine's write has taken the socket's error, the reader of a
// connection that was reset sees the same as after an orderly end.
func TestConnTellsResetFromClose(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(peer *net.TCPConn)
		taken []error // by the writer
		want  EndKind
	}{
		{"reset", resetTCP, []error{syscall.ECONNRESET, syscall.EPIPE}, EndReset},
		{"close", func(peer *net.TCPConn) { _ = peer.CloseWrite() }, []error{nil}, EndFIN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, peer := tcpPair(t)
			c := WatchConn(raw)
			tc.end(peer)
			_, err := raw.Write([]byte{1}) // not through c: another goroutine's
			if !isOneOf(err, tc.taken) {
				t.Fatalf("writing: got %v, want one of %v", err, tc.taken)
			}
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("reading: got %v, want EOF", err)
			}
			if end := c.End(); end.Kind != tc.want || end.Err != io.EOF {
				t.Errorf("got %v: %v, want %v: EOF", end.Kind, end.Err, tc.want)
			}
		})
	}
}

func isOneOf(err error, targets []error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// A client that breaks off an upload which the kernel passes on by itself has
// not ended the connection to the origin.
func TestConnReadFromBrokenSource(t *testing.T) {
	raw, peer := tcpPair(t)
	source, client := tcpPair(t)
	c := WatchConn(raw)
	go func() {
		_, _ = client.Write([]byte("part"))
		_, _ = io.ReadFull(peer, make([]byte, 4))
		resetTCP(client)
	}()
	n, err := c.ReadFrom(source)
	if n != 4 || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %d bytes, %v; want 4 and the client's reset", n, err)
	}
	if end := c.End(); end.Kind != Alive {
		t.Errorf("got end %v: %v, want none: the client broke off", end.Kind, end.Err)
	}
}

// An origin that resets such an upload has.
func TestConnReadFromReset(t *testing.T) {
	raw, peer := tcpPair(t)
	source, client := tcpPair(t)
	c := WatchConn(raw)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := client.Write(buf); err != nil {
				return
			}
		}
	}()
	go func() {
		_, _ = io.ReadFull(peer, make([]byte, 100_000))
		resetTCP(peer)
	}()
	n, err := c.ReadFrom(source)
	if n <= 0 || err == nil || c.Sent() != n {
		t.Errorf("got %d bytes, %d counted, %v; want some and an error", n, c.Sent(), err)
	}
	if end := c.End(); end.Kind != EndReset {
		t.Errorf("got end %v: %v, want %v", end.Kind, end.Err, EndReset)
	}
}

// The kernel gives up on a peer that takes nothing any more.
func TestConnKernelGivesUp(t *testing.T) {
	raw, _ := tcpPair(t)
	if err := setSocketOption(raw, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 50); err != nil {
		t.Fatal(err)
	}
	c := WatchConn(raw)
	var err error
	for buf := make([]byte, 1<<20); err == nil; {
		_, err = c.Write(buf)
	}
	if end := c.End(); end.Kind != EndTimer || !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %v: %v, want %v: %v", end.Kind, err, EndTimer, syscall.ETIMEDOUT)
	}
	f := Classify(err, Evidence{Watched: true, Connected: true, Conn: c})
	if f.Cause != Timeout || f.Side != SideNetwork || f.Phase != PhaseWrite || f.Safety != IfIdempotent || f.Weight != 1 {
		t.Errorf("got %s by %s in phase %s, safety %v, weight %v; want a time-out by the network", f.Cause, f.Side, f.Phase, f.Safety, f.Weight)
	}
}

func setSocketOption(c *net.TCPConn, level, option, value int) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, failed)
}
