// SPDX-License-Identifier: Apache-2.0

// Faults of the dial that need Linux to be produced without privileges.

package health_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resetguard/caddy-resetguard/health"
)

var dialLinuxCases = []faultCase{
	{
		"connect_timeout", "SYN without an answer", dialTimeout,
		want{cause: health.Timeout, phases: at(health.PhaseDial), side: health.SideNetwork, weight: 1, safety: health.Unsent},
	},
	{
		"own_deadline", "deadline of the request", func(t *testing.T) health.Fault {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			return dialSilence(t, ctx)
		},
		want{cause: health.Timeout, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
	{
		"client_abort", "client gone while dialling", func(t *testing.T) health.Fault {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return dialSilence(t, ctx)
		},
		want{cause: health.ClientGone, side: health.SideClient, weight: 0, safety: health.Never},
	},
	{
		"connect_reset", "reset before connect has returned", dialReset,
		want{cause: health.Reset, phases: at(health.PhaseDial), side: health.SideUpstream, weight: 1, safety: health.Unsent},
	},
	{
		// TCP to a broadcast address: the kernel knows no way (ENETUNREACH).
		"route", "network unreachable", func(t *testing.T) health.Fault { return dialAddress(t, "127.255.255.255:80") },
		want{cause: health.Unreachable, phases: at(health.PhaseDial), side: health.SideNetwork, weight: 0.5, safety: health.Unsent},
	},
	{
		"ephemeral_ports", "the only port of the range is taken", dialOutOfPorts,
		want{cause: health.LocalPorts, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
}

func TestClassifyDialLinux(t *testing.T) { runCases(t, dialLinuxCases) }

func dialAddress(t *testing.T, addr string) health.Fault {
	return newClient(t, nil).do(t, send{}.request(t, "http://"+addr)).fault(t)
}

func dialTimeout(t *testing.T) health.Fault {
	addr := fullListener(t)
	c := newClient(t, nil)
	c.dialer.Timeout = 20 * time.Millisecond
	return c.do(t, send{}.request(t, "http://"+addr)).fault(t)
}

func dialSilence(t *testing.T, ctx context.Context) health.Fault {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+fullListener(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, nil).do(t, req).fault(t)
}

// fullListener returns the address of a socket whose queue is full, so that
// the kernel drops every SYN.
func fullListener(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*unix.SockaddrInet4).Port))
	for range 10 { // the queue takes one more than it was made for
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue of a listener with backlog 0 took 10 connections")
	return ""
}

// dialReset tries until a reset arrives between the connection's establishment
// and the moment in which Go asks for the result. On a single processor Go runs
// the accepting goroutine before the one that dials, nearly always.
func dialReset(t *testing.T) health.Fault {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	addr := startPeer(t, func(c *net.TCPConn) { reset(c) })
	c := newClient(t, nil)
	c.DisableKeepAlives = true
	for i := range 20_000 {
		conn, err := c.dial(t.Context(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
			continue
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("dialling: %v", err)
		}
		t.Logf("connection %d", i+1)
		return health.Classify(err, health.Evidence{Dialing: true, Watched: true})
	}
	t.Fatal("in 20000 connections no reset arrived within connect")
	return health.Fault{}
}

// dialOutOfPorts allows the socket one local port (Linux 6.3), which is taken
// by a connection to the same address.
func dialOutOfPorts(t *testing.T) health.Fault {
	addr := startPeer(t, func(c *net.TCPConn) { drain(c) })
	c := newClient(t, nil)
	first, err := c.dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Close() })
	port := first.LocalAddr().(*net.TCPAddr).Port
	var unsupported error
	c.dialer.Control = func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			unsupported = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
		})
	}
	a := c.do(t, send{}.request(t, "http://"+addr))
	if unsupported != nil {
		t.Skipf("this kernel cannot limit the ports of one socket: %v", unsupported)
	}
	return a.fault(t)
}
