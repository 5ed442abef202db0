// SPDX-License-Identifier: Apache-2.0

// Error numbers, as Windows' sockets name them.

package pressure

import (
	"errors"

	"golang.org/x/sys/windows"
)

func isOutOfFiles(err error) bool { return errors.Is(err, windows.WSAEMFILE) }

func isOutOfPorts(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }
