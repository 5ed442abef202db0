// SPDX-License-Identifier: Apache-2.0

//go:build !windows

// Error numbers, as Unix systems name them.

package pressure

import (
	"errors"
	"syscall"
)

func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func isOutOfPorts(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }
