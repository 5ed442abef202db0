// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// Elsewhere the kernel's own patience holds.

package health

import "time"

// LimitUnacked does nothing on this system.
func (c *Conn) LimitUnacked(time.Duration) {}
