// SPDX-License-Identifier: Apache-2.0

// The kernel's files, opened once and read again and again.

package pressure

import (
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// procFile is a file of /proc or of a cgroup. Reading one anew gives what is
// true now, without opening it and without allocating.
type procFile struct {
	path string
	fd   int
	buf  []byte
}

const (
	procFileSize = 4 << 10 // enough for all but the longest
	procFileMost = 64 << 10
)

func openProc(root, path string) (*procFile, error) {
	full := filepath.Join(root, path)
	fd, err := unix.Open(full, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	return &procFile{full, fd, make([]byte, procFileSize)}, nil
}

// read returns the contents, valid until the next call.
func (f *procFile) read() ([]byte, error) {
	for {
		n, err := unix.Pread(f.fd, f.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: f.path, Err: err}
		}
		if n < len(f.buf) || n >= procFileMost {
			return f.buf[:n], nil
		}
		f.buf = make([]byte, 2*len(f.buf))
	}
}

// number reads a file that holds a single number; ok is false for anything else,
// as a cgroup's "max".
func (f *procFile) number() (n float64, ok bool, err error) {
	text, err := f.read()
	if err != nil {
		return 0, false, err
	}
	u, ok := parseUint(text)
	return float64(u), ok, nil
}

func (f *procFile) close() {
	if f != nil {
		unix.Close(f.fd)
	}
}

// invalid tells that a file is not what it should be.
func (f *procFile) invalid() error {
	return &fs.PathError{Op: "parse", Path: f.path, Err: errNoValue}
}

// openAll opens several files, all or none.
func openAll(root string, paths ...string) ([]*procFile, error) {
	files := make([]*procFile, 0, len(paths))
	for _, path := range paths {
		f, err := openProc(root, path)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*procFile) {
	for _, f := range files {
		f.close()
	}
}
