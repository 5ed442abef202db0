// SPDX-License-Identifier: Apache-2.0

// That the kernel is told how long to wait for acknowledgements.

package health_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resetguard/caddy-resetguard/health"
)

func TestLimitUnacked(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := health.WatchConn(raw)
	for want, d := range map[int]time.Duration{1500: 1500 * time.Millisecond, 1<<31 - 1: 10000 * time.Hour} {
		c.LimitUnacked(d)
		rc, err := raw.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		if err := rc.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || got != want {
			t.Errorf("%v: got %d ms and %v, want %d ms", d, got, err, want)
		}
	}
	near, far := net.Pipe() // has no socket
	defer near.Close()
	defer far.Close()
	health.WatchConn(near).LimitUnacked(time.Second)
}
