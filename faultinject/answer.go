// SPDX-License-Identifier: Apache-2.0

// This file makes the answers of an origin. They are whole in memory before
// they are sent, so that a fault can strike at an exact byte of them.

package faultinject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxAnswer     = 64 << 20 // bytes of an answer's body
	maxKeptUpload = 16 << 20 // bytes of a request's body that Config.Handler sees
)

// answer is what is to be sent, in any version of HTTP.
type answer struct {
	status  int
	header  http.Header // with Content-Length, if it is to be sent
	body    []byte      // empty for HEAD
	size    int64       // of the body, of which a lossy recorder has only the start
	chunked bool        // the length is not told
}

// cut is how much of the body passes before a fault in it. At least one byte
// is kept back, or the answer would be complete.
func (a answer) cut(after int64) int {
	n := a.size / 2
	if after > 0 {
		n = max(0, min(after, a.size-1))
	}
	return int(min(n, int64(len(a.body))))
}

// upload takes in a request's body.
type upload struct {
	hash hash.Hash
	size int64
	kept *bytes.Buffer // nil if nobody looks at it
}

func (o *Origin) newUpload() *upload {
	u := &upload{hash: sha256.New()}
	if o.cfg.Handler != nil {
		u.kept = new(bytes.Buffer)
	}
	return u
}

// Write takes in a part. It never fails.
func (u *upload) Write(p []byte) (int, error) {
	u.hash.Write(p)
	u.size += int64(len(p))
	if u.kept != nil && u.size <= maxKeptUpload {
		u.kept.Write(p)
	}
	return len(p), nil
}

// uploadCut is how much of a request's body of that length (-1: unknown)
// passes before a fault in it.
func uploadCut(after, length int64) int64 {
	switch {
	case after > 0:
		return after
	case length > 1:
		return length / 2
	default:
		return 1
	}
}

// answer makes the answer to a request whose body was received. It is false if
// Config.Handler panicked with http.ErrAbortHandler.
func (o *Origin) answer(r *http.Request, up *upload, e entry) (a answer, ok bool) {
	rec := &recorder{header: make(http.Header), limit: maxAnswer}
	switch {
	case e.how == byStatus:
		o.answerStatus(rec, e)
	case o.cfg.Handler == nil:
		o.answerDefault(rec, r)
	case up.size > maxKeptUpload:
		http.Error(rec, "request body is over 16 MiB, which is all that Config.Handler can be given", http.StatusRequestEntityTooLarge)
	default:
		r.Body, r.ContentLength = io.NopCloser(up.kept), up.size
		if !runHandler(o.cfg.Handler, rec, r) {
			return answer{}, false
		}
	}
	h := rec.Header()
	if o.cfg.Name != "" {
		h.Set("X-Origin", o.cfg.Name)
	}
	h.Set("X-Method", r.Method)
	h.Set("X-Body-Sha256", hex.EncodeToString(up.hash.Sum(nil)))
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	return rec.answer(r.Method, r.URL.Query().Get("chunked") == "1"), true
}

// runHandler reports whether the handler ended without aborting.
func runHandler(h http.Handler, w http.ResponseWriter, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			if err, is := p.(error); !is || !errors.Is(err, http.ErrAbortHandler) {
				panic(p) // a bug of the test, to be seen
			}
			ok = false
		}
	}()
	h.ServeHTTP(w, r)
	return true
}

func (o *Origin) answerStatus(w http.ResponseWriter, e entry) {
	code := e.status
	if code == 0 {
		code = o.cfg.Status
	}
	writeStatus(w, code, o.cfg.RetryAfter)
}

// writeStatus answers with a status that was asked for as a fault.
func writeStatus(w http.ResponseWriter, code int, retryAfter time.Duration) {
	if retryAfter > 0 {
		seconds := (retryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	http.Error(w, fmt.Sprintf("%d %s (injected fault)", code, http.StatusText(code)), code)
}

func (o *Origin) answerDefault(w http.ResponseWriter, r *http.Request) {
	sized, found := strings.CutPrefix(r.URL.Path, "/bytes/")
	if !found {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
		return
	}
	size, err := strconv.ParseInt(sized, 10, 64)
	if err != nil || size < 0 || size > maxAnswer {
		http.Error(w, fmt.Sprintf("%q is not a size: use /bytes/0 to /bytes/%d", sized, maxAnswer), http.StatusNotFound)
		return
	}
	if o.cfg.NoRanges {
		r.Header.Del("Range")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if o.cfg.ETag != "" {
		w.Header().Set("ETag", o.cfg.ETag)
	}
	http.ServeContent(w, r, "", o.cfg.LastModified, &content{version: o.cfg.Version, size: size})
}
