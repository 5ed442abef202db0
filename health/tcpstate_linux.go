// SPDX-License-Identifier: Apache-2.0

// The kernel's view of a TCP connection, on Linux.

package health

import "golang.org/x/sys/unix"

// tcpState returns tcpi_state, which tells a reset (CLOSE) from a FIN
// (CLOSE_WAIT) even when the error does not; tcpUnknown if it cannot be had.
// It takes 1.4 microseconds, so it is asked once, when a connection ends.
func tcpState(c *Conn) uint8 {
	rc, err := c.SyscallConn()
	if err != nil {
		return tcpUnknown
	}
	var state uint8
	if err := rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	}); err != nil {
		return tcpUnknown
	}
	return state
}
