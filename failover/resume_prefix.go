// SPDX-License-Identifier: Apache-2.0

// The proof by hash: the same response once more, beginning with the same bytes.

package failover

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// prefix is the hash of what the client has, and of what another origin has sent
// again so far.
type prefix struct {
	sent   running
	again  *running // nil: nothing
	reread int64    // how many bytes have been sent again, in all
	same   identity
	// partFields are the fields that are the same in each part, too.
	partFields string
	overlap    int64
}

// leastOverlap is how much of what the client has must come again in the very
// answer that goes on: the parts before it may be of another time. An answer that
// breaks off closer to the end than that counts for nothing.
const leastOverlap = 32 << 10

// running is a hash that goes on. Besides the whole it keeps the hash up to each
// power of two from firstMark on, so that another version is noticed after at most
// twice the bytes up to the first difference, at 32 bytes for each doubling.
type running struct {
	sum   hash.Hash
	n     int64
	marks [][sha256.Size]byte
}

const firstMark = 64 << 10

func mark(i int) int64 { return firstMark << i }

func (r *running) add(b []byte) {
	for len(b) > 0 {
		piece := b[:min(int64(len(b)), mark(len(r.marks))-r.n)]
		r.sum.Write(piece)
		r.n += int64(len(piece))
		if r.n == mark(len(r.marks)) {
			r.marks = append(r.marks, r.sumNow())
		}
		b = b[len(piece):]
	}
}

// sumNow is the hash of all so far; more may be added afterwards.
func (r *running) sumNow() (sum [sha256.Size]byte) {
	r.sum.Sum(sum[:0])
	return sum
}

// identity is what has to be the same in each answer.
type identity struct {
	fields, place string // place is the Content-Range
	status        int
	length        int64
}

// sameFields are the header fields that say what the bytes are.
var sameFields = [...]string{
	"Content-Type", "Content-Encoding", "Content-Language", "Content-Location",
	"Content-Disposition", "ETag", "Last-Modified", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5",
}

// partFields are those of them that are about one message's bytes, and so are
// others in a part (RFC 9530 section 2, RFC 1864).
var partFields = [...]string{"Content-Digest", "Content-MD5"}

func identityOf(res *http.Response) identity {
	return identity{
		fields: fieldsOf(res), place: strings.Join(res.Header.Values("Content-Range"), ","),
		status: res.StatusCode, length: res.ContentLength,
	}
}

// fieldsOf makes one comparable text of the fields.
func fieldsOf(res *http.Response, but ...string) string {
	var b strings.Builder
	b.WriteString(strconv.FormatBool(res.Uncompressed))
	for _, name := range sameFields {
		if slices.Contains(but, name) {
			continue
		}
		for _, v := range res.Header.Values(name) {
			b.WriteString("\n" + name + ": " + v)
		}
	}
	return b.String()
}

func newPrefix(res *http.Response) *prefix {
	return &prefix{sent: running{sum: sha256.New()}, same: identityOf(res), partFields: fieldsOf(res, partFields[:]...), overlap: leastOverlap}
}

// againCheck is one thing that has to be right in an answer that comes as a whole
// once more. It returns what is wrong.
type againCheck struct {
	name string
	is   func(had, has identity) (wrong string)
}

// againChecks are all that can be looked at before the bytes are. Each of them
// alone keeps two versions apart in some case, which a test proves.
var againChecks = [...]againCheck{
	{checkStatus, func(had, has identity) string { return differs(has.status, had.status) }},
	{"length", func(had, has identity) string { return differs(has.length, had.length) }},
	{"place", func(had, has identity) string { return differs(has.place, had.place) }},
	{"header", func(had, has identity) string {
		if has.fields != had.fields {
			return "is another one"
		}
		return ""
	}},
}

// checkAgain tells whether res can be the same response, by its header.
func (p *prefix) checkAgain(res *http.Response, checks []againCheck) error {
	has := identityOf(res)
	for _, c := range checks {
		if wrong := c.is(p.same, has); wrong != "" {
			return &MismatchError{Check: c.name, Detail: wrong}
		}
	}
	return nil
}

// maxReread is how many times what the client has may be sent again in all, so
// that an origin which breaks off all the time cannot be kept at it for ever.
const maxReread = 64

func (p *prefix) spent() bool { return p.reread > maxReread*max(p.sent.n, firstMark) }

// compareBuffers are as large as the copy buffer of a proxy.
var compareBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// compare reads what is missing of the first sent bytes from r, less if it finds
// others. What was the same before r broke off counts.
func (p *prefix) compare(r io.Reader, sent int64) error {
	buf := compareBuffers.Get().(*[32 << 10]byte)
	defer compareBuffers.Put(buf)
	again := p.again
	if again == nil {
		again = &running{sum: sha256.New()}
	}
	p.again = nil // until it has broken off
	for again.n < sent {
		n, err := r.Read(buf[:min(int64(len(buf)), sent-again.n)])
		again.add(buf[:n])
		p.reread += int64(n)
		if k := len(again.marks); k > 0 && again.marks[k-1] != p.sent.marks[k-1] {
			return &MismatchError{Check: "beginning", Detail: "has other bytes"}
		}
		if again.n == sent {
			break
		}
		if err == io.EOF {
			return &MismatchError{Check: "body", Detail: "is shorter"}
		}
		if err != nil {
			if sent-again.n >= p.overlap {
				p.again = again
			}
			return err
		}
	}
	if a, b := again.sumNow(), p.sent.sumNow(); !bytes.Equal(a[:], b[:]) {
		return &MismatchError{Check: "beginning", Detail: "has other bytes"}
	}
	return nil
}
