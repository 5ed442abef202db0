// SPDX-License-Identifier: Apache-2.0

// Resume: which responses that broke off can be finished from another origin,
// what that origin is asked, and what its answer has to be.

package failover

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ResumeMode says what is done about a response that breaks off after a part of
// it has reached the client.
type ResumeMode uint8

// The modes. The zero value does nothing.
const (
	// ResumeOff lets the response break off.
	ResumeOff ResumeMode = iota
	// ResumeOn asks another origin for the missing part, if a strong validator
	// proves that it belongs to the same representation.
	ResumeOn
	// ResumeVerify also fetches responses without a validator again, and goes on
	// if their beginning has the same hash.
	ResumeVerify
)

var resumeModes = [...]string{ResumeOff: "off", ResumeOn: "on", ResumeVerify: "verify"}

// String gives the word used in configurations.
func (m ResumeMode) String() string { return resumeModes[m] }

// ParseResumeMode reads the word used in configurations.
func ParseResumeMode(s string) (ResumeMode, bool) {
	for m, word := range resumeModes {
		if s == word {
			return ResumeMode(m), true
		}
	}
	return ResumeOff, false
}

// Resumption is what has to be known of a response to finish it from another
// origin: which bytes of which representation it consists of. The zero value
// cannot be resumed. It belongs to one goroutine.
//
// What it accepts continues the same representation, by one of two proofs. By
// range: a 206 with the same strong validator (RFC 9110 section 8.8), coding and
// total length, that begins and ends where it should. By hash: the same response
// once more, of which as many bytes as the client has are read again and have
// the same SHA-256.
type Resumption struct {
	status int
	// etag or, if there is none, modified is the strong validator. Both are
	// empty if there is none.
	etag, modified string
	// first and last are the positions of the first and last byte of the
	// response's body in the representation of total bytes. By hash only, all
	// are unknown if length is -1.
	first, last, total int64
	length             int64
	coding, mediaType  string
	prefix             *prefix // nil if nothing can be proved by hash
}

// sureAge is how much younger than its response a Last-Modified date must be to
// be a strong validator. RFC 9110 section 8.8.2.2 asks for one second by the same
// clock; a minute also covers origins whose clocks differ.
const sureAge = time.Minute

// Begin takes down what must be known of res, which answers req, and tells
// whether it can be resumed at all. It must be called before anybody changes the
// response's header.
func (r *Resumption) Begin(mode ResumeMode, req *http.Request, res *http.Response, now time.Time) bool {
	*r = Resumption{}
	if mode == ResumeOff || !asksAgain(req) || len(res.Trailer) > 0 || !r.locate(req, res) {
		return false
	}
	r.status, r.coding, r.mediaType = res.StatusCode, coding(res.Header), res.Header.Get("Content-Type")
	if r.length >= 0 && !res.Uncompressed {
		r.etag, r.modified = validator(res.Header, now)
	}
	if mode == ResumeVerify {
		r.prefix = newPrefix(res)
	}
	return r.byRange() || r.prefix != nil
}

// asksAgain tells whether req can be sent once more and means the same then.
func asksAgain(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Method == "") &&
		(req.Body == nil || req.Body == http.NoBody) && req.ContentLength == 0 &&
		req.Header.Get("Upgrade") == ""
}

// locate finds out which bytes of the representation the response consists of.
func (r *Resumption) locate(req *http.Request, res *http.Response) bool {
	r.length = res.ContentLength
	switch res.StatusCode {
	case http.StatusOK:
		r.total, r.last = r.length, r.length-1
		return r.length != 0
	case http.StatusPartialContent:
		cr, ok := contentRange(res.Header)
		r.first, r.last, r.total = cr.First, cr.Last, cr.Total
		return ok && asksOneRange(req.Header) && cr.Total >= 0 && r.length == cr.Length() && !isMultipart(res.Header)
	}
	return false
}

// asksOneRange tells whether the request's Range has one range: of several, an
// origin may have sent any.
func asksOneRange(h http.Header) bool {
	fields := h.Values("Range")
	return len(fields) == 1 && !strings.Contains(fields[0], ",")
}

// byRange tells whether a strong validator is known, so that a part will do.
func (r *Resumption) byRange() bool { return r.etag != "" || r.modified != "" }

// Costly tells that the origin has to send again what the client has already.
func (r *Resumption) Costly() bool { return !r.byRange() }

// Passed notes bytes that go to the client. It is needed for the proof by hash
// only, and keeps none of them.
func (r *Resumption) Passed(p []byte) {
	if r.prefix != nil {
		r.prefix.sent.add(p)
	}
}

// conditions are the request header fields by which an origin may decide not to
// send what it has. They were decided upon by the first response.
var conditions = [...]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

// Ask changes the header of a copy of the request so that it asks for what is
// missing after the first sent bytes of the response's body.
func (r *Resumption) Ask(h http.Header, sent int64) {
	from := sent
	if !r.byRange() {
		if from = r.Reread(); from == 0 {
			return // the same again
		}
	}
	for _, name := range conditions {
		h.Del(name)
	}
	if r.status == http.StatusOK {
		h.Set("Range", fmt.Sprintf("bytes=%d-", from))
	} else {
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", r.first+from, r.last))
	}
	switch {
	case r.etag != "":
		h.Set("If-Range", r.etag)
	case r.modified != "":
		h.Set("If-Range", r.modified)
	}
}

// Reread is how many bytes of the beginning an origin has sent again before it
// broke off: it can go on from there, and nobody else can.
func (r *Resumption) Reread() int64 {
	if r.prefix == nil || r.prefix.again == nil || r.byRange() || r.length < 0 {
		return 0
	}
	return r.prefix.again.n
}

// StartOver forgets what was read again. It must be called before another origin
// is asked.
func (r *Resumption) StartOver() {
	if r.prefix != nil {
		r.prefix.again = nil
	}
}

// Spent tells that so much was sent again that no more is to be.
func (r *Resumption) Spent() bool { return r.prefix != nil && r.prefix.spent() }

// What is checked first in an answer; the other checks are about the content.
const (
	checkStatus    = "status"
	checkRange     = "Content-Range"
	checkValidator = "validator"
)

// MismatchError tells why an origin's answer does not continue a response: it
// has something else.
type MismatchError struct{ Check, Detail string }

// OtherVersion tells that the origin has another version. Otherwise it has only not
// sent what it was asked for: it knows no ranges, or answered with an error.
func (e *MismatchError) OtherVersion() bool { return e.Check != checkStatus && e.Check != checkRange }

func (e *MismatchError) Error() string { return "the other answer's " + e.Check + " " + e.Detail }

// Accept looks at the answer to what Ask asked for, and returns the rest of the
// body: exactly what is missing after sent bytes. It may have to read sent bytes
// before it knows. A *MismatchError means that the answer is another one; any
// other error is one of reading it. The caller closes the answer's body in
// either case.
func (r *Resumption) Accept(res *http.Response, sent int64) (io.Reader, error) {
	if r.byRange() && !(r.prefix != nil && res.StatusCode == r.status && r.status == http.StatusOK) {
		if err := r.checkPart(res, sent, partChecks); err != nil {
			return nil, err
		}
		return r.rest(res.Body, sent), nil
	}
	if err := r.checkBeginning(res); err != nil {
		return nil, err
	}
	if err := r.prefix.compare(res.Body, sent); err != nil {
		return nil, err
	}
	return r.rest(res.Body, sent), nil
}

// checkBeginning looks at an answer that begins before what is missing: with the
// first byte, or where the one before it broke off.
func (r *Resumption) checkBeginning(res *http.Response) error {
	from := r.Reread()
	if from > 0 && res.StatusCode == http.StatusPartialContent {
		return r.checkPart(res, from, rereadChecks)
	}
	r.StartOver() // it knows no ranges
	return r.prefix.checkAgain(res, againChecks[:])
}

// rest reads what is missing, no byte more, and takes an end before that for
// what it is.
func (r *Resumption) rest(body io.Reader, sent int64) io.Reader {
	if r.length < 0 {
		return body
	}
	return &restReader{r: body, left: r.length - sent}
}

type restReader struct {
	r    io.Reader
	left int64
}

func (b *restReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF // what comes after that is nobody's
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// coding is the content coding, as one comparable text.
func coding(h http.Header) string {
	text := strings.ToLower(strings.Join(h.Values("Content-Encoding"), ","))
	text = strings.ReplaceAll(text, " ", "")
	if text == "identity" {
		return ""
	}
	return text
}

// validator returns the strong validator of a response: its entity tag or else
// its date. Two fields, or a date without a certain age, are no proof.
func validator(h http.Header, now time.Time) (etag, modified string) {
	if tags := h.Values("ETag"); len(tags) > 0 {
		if len(tags) == 1 && isStrongTag(tags[0]) {
			return tags[0], ""
		}
		return "", "" // an origin that has weak tags knows no better by date
	}
	dates := h.Values("Last-Modified")
	if len(dates) != 1 {
		return "", ""
	}
	at, err := http.ParseTime(dates[0])
	if err != nil {
		return "", ""
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	if now.Sub(at) < sureAge {
		return "", ""
	}
	return "", dates[0]
}

// isStrongTag tells whether s is an entity tag without W/ (RFC 9110 section
// 8.8.3).
func isStrongTag(s string) bool {
	if len(s) < 3 || s[0] != '"' || s[len(s)-1] != '"' {
		return false // the empty tag is legal, and says nothing
	}
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c != 0x21 && (c < 0x23 || c == 0x7f) {
			return false
		}
	}
	return true
}

func isMultipart(h http.Header) bool {
	mt, _, _ := strings.Cut(h.Get("Content-Type"), "/")
	return strings.EqualFold(strings.TrimSpace(mt), "multipart")
}
