// SPDX-License-Identifier: Apache-2.0

// Error numbers, as Windows' sockets name them: the syscall package's Unix
// names are inventions there and never come back from a socket.

package health

import (
	"errors"

	"golang.org/x/sys/windows"
)

func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED)
}

func isRefused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

func isUnreachable(err error) bool {
	return errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH) ||
		errors.Is(err, windows.WSAENETDOWN) || errors.Is(err, windows.WSAEHOSTDOWN)
}

func isTimedOut(err error) bool { return errors.Is(err, windows.WSAETIMEDOUT) }

func isOutOfPorts(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

func isOutOfFiles(err error) bool { return errors.Is(err, windows.WSAEMFILE) }

func isOutOfMemory(err error) bool { return errors.Is(err, windows.WSAENOBUFS) }

func isNoSocket(err error) bool { return errors.Is(err, windows.ERROR_FILE_NOT_FOUND) }
