// SPDX-License-Identifier: Apache-2.0

// This file contains what only Linux offers: keeping a port while nothing
// listens on it, and knowing when all that was written is on its way.

package faultinject

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxAwaitSent bounds the wait for a peer that does not read.
const maxAwaitSent = time.Second

// heldPort is a socket that is bound and does not listen. Beside it a listener
// may come and go on the port, and no other process is given it meanwhile.
type heldPort struct{ fd int }

// holdPort binds addr, choosing a port if it names none, and returns the
// address with the port.
func holdPort(addr *net.TCPAddr) (*heldPort, *net.TCPAddr, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: addr.Port, Addr: [16]byte(addr.IP.To16())})
	if ip4 := addr.IP.To4(); ip4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(ip4)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket: %w", err)
	}
	h := &heldPort{fd}
	// Both sockets need the option for the listener to be let in.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		h.release()
		return nil, nil, fmt.Errorf("setting SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		h.release()
		return nil, nil, fmt.Errorf("binding %s: %w", addr, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		h.release()
		return nil, nil, fmt.Errorf("reading the port of the socket bound to %s: %w", addr, err)
	}
	with := &net.TCPAddr{IP: addr.IP, Zone: addr.Zone}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		with.Port = b.Port
	case *unix.SockaddrInet6:
		with.Port = b.Port
	}
	return h, with, nil
}

func (h *heldPort) release() { _ = unix.Close(h.fd) }

// awaitSent waits until the kernel has sent all that was written, since a reset
// throws away what is still queued. It does not wait for acknowledgements,
// which would take 40 ms and change nothing on a connection without loss.
func awaitSent(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for began := time.Now(); time.Since(began) < maxAwaitSent; time.Sleep(100 * time.Microsecond) {
		queued := 0
		if err := raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) }); err != nil || queued == 0 {
			return
		}
	}
}
