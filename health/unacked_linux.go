// SPDX-License-Identifier: Apache-2.0

// How long the kernel waits for the other side to acknowledge, on Linux.

package health

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// LimitUnacked ends the connection, as timed out, when what was sent has not been
// acknowledged for d: nobody is there any more, and nobody has said so. The
// kernel by itself goes on trying for a quarter of an hour. An origin that is
// merely silent acknowledges all the same. It does nothing where it cannot.
func (c *Conn) LimitUnacked(d time.Duration) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		ms := min(d.Milliseconds(), math.MaxInt32)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ms))
	})
}
