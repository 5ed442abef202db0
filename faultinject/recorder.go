// SPDX-License-Identifier: Apache-2.0

// This file keeps a handler's answer in memory, up to a limit.

package faultinject

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
)

// errAnswerTooLarge ends a handler whose answer is over the limit.
var errAnswerTooLarge = errors.New("recording answer: it is larger than what is kept in memory")

// recorder is an http.ResponseWriter that keeps what is written.
type recorder struct {
	header http.Header
	status int // 0 until WriteHeader
	body   bytes.Buffer
	limit  int
	size   int64 // bytes written
	// Drops what is over the limit, instead of telling the handler.
	lossy bool
}

// Header is part of http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader is part of http.ResponseWriter. Informational answers are dropped.
func (r *recorder) WriteHeader(status int) {
	if r.status != 0 || status < 200 {
		return
	}
	r.status = status
	if n, err := strconv.Atoi(r.header.Get("Content-Length")); err == nil && n > 0 {
		r.body.Grow(min(n, r.limit))
	}
}

// Write is part of http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	n := min(len(p), r.limit-r.body.Len())
	r.body.Write(p[:n])
	if n < len(p) && !r.lossy {
		r.size += int64(n)
		return n, errAnswerTooLarge
	}
	r.size += int64(len(p))
	return len(p), nil
}

// Flush lets handlers flush; there is nothing to do.
func (r *recorder) Flush() {}

// answer is what was recorded, with a Content-Length that is true, or for HEAD
// what the handler said.
func (r *recorder) answer(method string, chunked bool) answer {
	r.WriteHeader(http.StatusOK)
	a := answer{status: r.status, header: r.header, body: r.body.Bytes(), size: r.size}
	a.header.Del("Transfer-Encoding")
	switch {
	case r.status == http.StatusNoContent || r.status == http.StatusNotModified:
		a.body, a.size = nil, 0
		a.header.Del("Content-Length")
	case chunked:
		a.chunked = true
		a.header.Del("Content-Length")
	case method != http.MethodHead || (a.header.Get("Content-Length") == "" && r.size > 0):
		a.header.Set("Content-Length", strconv.FormatInt(r.size, 10))
	}
	if method == http.MethodHead {
		a.body, a.size = nil, 0
	}
	return a
}
