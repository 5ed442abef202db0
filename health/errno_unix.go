// SPDX-License-Identifier: Apache-2.0

//go:build !windows

// Error numbers, as Unix systems name them.

package health

import (
	"errors"
	"syscall"
)

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func isUnreachable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.ENETDOWN) || errors.Is(err, syscall.EHOSTDOWN)
}

func isTimedOut(err error) bool { return errors.Is(err, syscall.ETIMEDOUT) }

func isOutOfPorts(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func isOutOfMemory(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// isNoSocket tells that a unix socket's file does not exist, which means for
// it what a refused connection means for TCP.
func isNoSocket(err error) bool { return errors.Is(err, syscall.ENOENT) }
