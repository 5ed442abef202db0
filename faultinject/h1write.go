// SPDX-License-Identifier: Apache-2.0

// This file writes answers the way HTTP/1 wants them, and two ways it does not.

package faultinject

import (
	"bytes"
	"fmt"
	"net/http"
)

const (
	h1Garbage   = "\x00\xff\x13\x37 this is not HTTP\r\n\r\n"
	h1BadHeader = "HTTP/1.1 200 OK\r\nthis line has no colon\r\nContent-Length: 0\r\n\r\n"

	// h1Chunk is the size of a chunk in a chunked body.
	h1Chunk = 16 << 10
)

// h1Head is the status line and the header, and whether the connection ends
// with this answer.
func (a answer) h1Head(req *http.Request) (head []byte, last bool) {
	h := a.header.Clone()
	last = req.Close || h.Get("Connection") == "close"
	if a.chunked {
		if req.ProtoAtLeast(1, 1) {
			h.Set("Transfer-Encoding", "chunked")
		} else {
			last = true // HTTP/1.0: the end of the connection is the end of the body
		}
	}
	switch {
	case last:
		h.Set("Connection", "close")
	case !req.ProtoAtLeast(1, 1):
		h.Set("Connection", "keep-alive")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	_ = h.Write(&b) // a bytes.Buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes(), last
}

// half is the first half of a header, or a little more: it ends within the
// value of a field. A field without its colon would be malformed, and not just
// short, in the eyes of net/http.
func half(head []byte) []byte {
	mid := len(head) / 2
	if i := bytes.Index(head[mid:], []byte(": ")); i >= 0 {
		return head[:mid+i+len(": ")+1]
	}
	return head[:mid]
}

// h1Body is the first n bytes of the body as they are sent. A chunked body
// that is cut announces the whole chunk in which the cut is, and has no end.
func (a answer) h1Body(req *http.Request, n int) []byte {
	if !a.chunked || !req.ProtoAtLeast(1, 1) || req.Method == http.MethodHead {
		return a.body[:n]
	}
	var b bytes.Buffer
	for off := 0; off < n; off += h1Chunk {
		end := min(off+h1Chunk, len(a.body))
		fmt.Fprintf(&b, "%x\r\n", end-off)
		b.Write(a.body[off:min(end, n)])
		if n < end {
			return b.Bytes()
		}
		b.WriteString("\r\n")
	}
	if n == len(a.body) {
		b.WriteString("0\r\n\r\n")
	}
	return b.Bytes()
}
