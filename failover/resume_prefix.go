// SPDX-License-Identifier: Apache-2.0

// The proof by hash: the same response once more, beginning with the same bytes.

package failover

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// prefix is the hash of what the client has. Besides the whole it keeps the hash
// up to each power of two from firstMark on, so that another version is noticed
// after at most twice the bytes up to the first difference, at 32 bytes for each
// doubling.
type prefix struct {
	sum    hash.Hash
	n      int64
	marks  [][sha256.Size]byte
	fields string // the header fields that must be the same
	length int64
}

const firstMark = 64 << 10

func mark(i int) int64 { return firstMark << i }

// sameFields are the header fields that say what the bytes are.
var sameFields = [...]string{
	"Content-Type", "Content-Encoding", "Content-Range", "Content-Language", "Content-Location",
	"Content-Disposition", "ETag", "Last-Modified", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5",
}

func newPrefix(res *http.Response) *prefix {
	return &prefix{sum: sha256.New(), fields: fieldsOf(res), length: res.ContentLength}
}

// fieldsOf makes one comparable text of the fields.
func fieldsOf(res *http.Response) string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(res.StatusCode))
	b.WriteString(strconv.FormatBool(res.Uncompressed))
	for _, name := range sameFields {
		for _, v := range res.Header.Values(name) {
			b.WriteString("\n" + name + ": " + v)
		}
	}
	return b.String()
}

// checkAgain tells whether res can be the same response, by its header.
func (p *prefix) checkAgain(res *http.Response) error {
	if wrong := differs(res.ContentLength, p.length); wrong != "" {
		return &MismatchError{Check: "length", Detail: wrong}
	}
	if fieldsOf(res) != p.fields {
		return &MismatchError{Check: "header", Detail: "is another one"}
	}
	return nil
}

// add hashes what goes to the client.
func (p *prefix) add(b []byte) {
	for len(b) > 0 {
		piece := b[:min(int64(len(b)), mark(len(p.marks))-p.n)]
		p.sum.Write(piece)
		p.n += int64(len(piece))
		if p.n == mark(len(p.marks)) {
			p.marks = append(p.marks, p.sumNow())
		}
		b = b[len(piece):]
	}
}

// sumNow is the hash of all so far; more may be added afterwards.
func (p *prefix) sumNow() (sum [sha256.Size]byte) {
	p.sum.Sum(sum[:0])
	return sum
}

// compareBuffers are as large as the copy buffer of a proxy.
var compareBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// compare reads the first sent bytes of r, fewer if it finds others.
func (p *prefix) compare(r io.Reader, sent int64) error {
	buf := compareBuffers.Get().(*[32 << 10]byte)
	defer compareBuffers.Put(buf)
	again := prefix{sum: sha256.New()}
	for again.n < sent {
		n, err := r.Read(buf[:min(int64(len(buf)), sent-again.n)])
		again.add(buf[:n])
		if k := len(again.marks); k > 0 && again.marks[k-1] != p.marks[k-1] {
			return &MismatchError{Check: "beginning", Detail: "has other bytes"}
		}
		if err == io.EOF && again.n < sent {
			return &MismatchError{Check: "body", Detail: "is shorter"}
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if a, b := again.sumNow(), p.sumNow(); !bytes.Equal(a[:], b[:]) {
		return &MismatchError{Check: "beginning", Detail: "has other bytes"}
	}
	return nil
}
