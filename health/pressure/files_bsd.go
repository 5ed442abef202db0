// SPDX-License-Identifier: Apache-2.0

//go:build darwin || freebsd || netbsd || openbsd || dragonfly

// Open files, where /dev/fd lists them.

package pressure

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func fileSource() *source {
	return &source{name: "files", feeds: []Resource{Files}, every: slowly, open: openFiles}
}

// FilesAllowed is how many descriptors this process may have; 0 if that is not
// limited or not known.
func FilesAllowed() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return uint64(limit.Cur) // signed on some systems
}

// fileCount counts the entries of /dev/fd, which allocates: it is a list there.
type fileCount struct{ dir string }

func openFiles(h *host) (reader, error) { return fileCount{filepath.Join(h.root, "dev/fd")}, nil }

func (f fileCount) read(v *values, _ time.Time) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	v[0] = float64(len(names)) / float64(max(1, limit.Cur))
	return err
}

func (fileCount) close() {}
