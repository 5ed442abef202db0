// SPDX-License-Identifier: Apache-2.0

// Open file descriptors, on Linux.

package pressure

import (
	"encoding/binary"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// FilesAllowed is how many descriptors this process may have; 0 if that is not
// limited or not known.
func FilesAllowed() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return limit.Cur
}

// fileCount counts what is in /proc/self/fd. From Linux 6.2 on the size of that
// directory is the number; before, its entries are counted.
type fileCount struct {
	path  string
	fd    int
	sized bool
	buf   []byte
}

func openFiles(h *host) (reader, error) {
	path := filepath.Join(h.root, "proc/self/fd")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := &fileCount{path: path, fd: fd, buf: make([]byte, 32<<10)}
	f.sized = f.sizeIsCount()
	return f, nil
}

// sizeIsCount tells whether the directory's size is near the number of its
// entries, which other goroutines may change meanwhile.
func (f *fileCount) sizeIsCount() bool {
	var st unix.Stat_t
	var proc unix.Statfs_t
	if unix.Fstat(f.fd, &st) != nil || unix.Fstatfs(f.fd, &proc) != nil || proc.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	n, err := f.entries()
	return err == nil && st.Size > 0 && st.Size >= int64(n/2) && st.Size <= int64(2*n+16)
}

func (f *fileCount) read(v *values, _ time.Time) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	n, err := f.count()
	v[0] = float64(n) / float64(max(1, limit.Cur))
	return err
}

func (f *fileCount) count() (int, error) {
	if !f.sized {
		return f.entries()
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: f.path, Err: err}
	}
	return int(st.Size), nil
}

// entries counts the directory's entries without making strings of them.
func (f *fileCount) entries() (int, error) {
	if _, err := unix.Seek(f.fd, 0, 0); err != nil {
		return 0, &fs.PathError{Op: "seek", Path: f.path, Err: err}
	}
	count := -2 // "." and ".."
	for {
		n, err := unix.ReadDirent(f.fd, f.buf)
		if err != nil {
			return 0, &fs.PathError{Op: "readdir", Path: f.path, Err: err}
		}
		if n <= 0 {
			return max(0, count), nil
		}
		count += records(f.buf[:n])
	}
}

// records counts the kernel's linux_dirent64: inode and offset of 8 bytes each,
// then the record's length.
func records(buf []byte) (n int) {
	for len(buf) >= 18 {
		length := int(binary.NativeEndian.Uint16(buf[16:]))
		if length < 18 || length > len(buf) {
			break
		}
		n, buf = n+1, buf[length:]
	}
	return n
}

func (f *fileCount) close() { unix.Close(f.fd) }
