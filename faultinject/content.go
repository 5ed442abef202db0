// SPDX-License-Identifier: Apache-2.0

// This file generates bodies that look random, are the same each time and can
// be read from any offset, so that a test notices a byte that is missing,
// doubled or from another version.

package faultinject

import (
	"encoding/binary"
	"errors"
	"io"
)

// Bytes is what /bytes/N of an origin with Version 0 answers.
func Bytes(n int) []byte { return VersionBytes(0, n) }

// VersionBytes is what /bytes/N of an origin with that Version answers. The
// content of two versions differs everywhere; a longer one of the same version
// begins like a shorter one.
func VersionBytes(version uint64, n int) []byte {
	p := make([]byte, n)
	fill(p, version, 0)
	return p
}

// fill writes the content from offset off on. Words are numbered, and each is
// the SplitMix64 hash of its number, so none depends on the one before.
func fill(p []byte, version uint64, off int64) {
	var word [8]byte
	for len(p) > 0 {
		z := version*0xd1342543de82ef95 + uint64(off/8)*0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], z^z>>31)
		n := copy(p, word[off%8:])
		p, off = p[n:], off+int64(n)
	}
}

// content reads size bytes of a version.
type content struct {
	version   uint64
	size, off int64
}

// Read reads on from where Seek or the last Read has left off.
func (c *content) Read(p []byte) (int, error) {
	left := c.size - c.off
	if left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	fill(p, c.version, c.off)
	c.off += int64(len(p))
	return len(p), nil
}

// Seek is there for http.ServeContent.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.off
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("seeking in generated content: offset is before its start")
	}
	c.off = offset
	return offset, nil
}
