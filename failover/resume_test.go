// SPDX-License-Identifier: Apache-2.0

// Tests of the rules of resume: what can be resumed, what is asked, and that
// each check of the answer is needed.

package failover

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var resumeNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// header makes a header of "Name: value" lines.
func header(lines ...string) http.Header {
	h := make(http.Header)
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	return h
}

func getRequest(lines ...string) *http.Request {
	return &http.Request{Method: http.MethodGet, Header: header(lines...)}
}

func response(status int, length int64, lines ...string) *http.Response {
	return &http.Response{StatusCode: status, ContentLength: length, Header: header(lines...), ProtoMajor: 1}
}

func TestResumptionBegin(t *testing.T) {
	const tag, old, fresh = `ETag: "v1"`, "Last-Modified: Sun, 01 Mar 2026 11:58:00 GMT", "Last-Modified: Sun, 01 Mar 2026 11:59:30 GMT"
	post, uploading, upgrading := getRequest(), getRequest(), getRequest("Upgrade: websocket")
	post.Method, uploading.ContentLength, uploading.Body = http.MethodPost, 3, io.NopCloser(strings.NewReader("abc"))
	unzipped, trailing := response(200, -1, tag), response(200, 1000, tag)
	unzipped.Uncompressed, trailing.Trailer = true, http.Header{"X": nil}
	for _, tc := range []struct {
		name       string
		req        *http.Request
		res        *http.Response
		on, verify bool
	}{
		{"ok/strong tag", getRequest(), response(200, 1000, tag), true, true},
		{"ok/old date", getRequest(), response(200, 1000, old), true, true},
		{"ok/old date by the origin's clock", getRequest(), response(200, 1000, fresh, "Date: Sun, 01 Mar 2026 12:00:31 GMT"), true, true},
		{"ok/coded by the origin", getRequest(), response(200, 1000, tag, "Content-Encoding: gzip"), true, true},
		{"ok/one range", getRequest("Range: bytes=10-19"), response(206, 10, tag, "Content-Range: bytes 10-19/1000"), true, true},
		{"ok/range ignored by the origin", getRequest("Range: bytes=10-19"), response(200, 1000, tag), true, true},

		{"verify/no validator", getRequest(), response(200, 1000), false, true},
		{"verify/weak tag", getRequest(), response(200, 1000, `ETag: W/"v1"`, old), false, true},
		{"verify/empty tag", getRequest(), response(200, 1000, `ETag: ""`), false, true},
		{"verify/tag without quotes", getRequest(), response(200, 1000, `ETag: v1`), false, true},
		{"verify/quote within the tag", getRequest(), response(200, 1000, `ETag: "a"b"`), false, true},
		{"verify/two tags", getRequest(), response(200, 1000, tag, `ETag: "v2"`), false, true},
		{"verify/young date", getRequest(), response(200, 1000, fresh), false, true},
		{"verify/two dates", getRequest(), response(200, 1000, old, fresh), false, true},
		{"verify/no date at all", getRequest(), response(200, 1000, "Last-Modified: long ago"), false, true},
		{"verify/unknown length", getRequest(), response(200, -1, tag), false, true},
		{"verify/unzipped on the way", getRequest(), unzipped, false, true},
		{"verify/range without validator", getRequest("Range: bytes=10-19"), response(206, 10, "Content-Range: bytes 10-19/1000"), false, true},

		{"never/POST", post, response(200, 1000, tag), false, false},
		{"never/with a body", uploading, response(200, 1000, tag), false, false},
		{"never/upgrade", upgrading, response(200, 1000, tag), false, false},
		{"never/trailer", getRequest(), trailing, false, false},
		{"never/other status", getRequest(), response(404, 1000, tag), false, false},
		{"never/several ranges", getRequest("Range: bytes=0-1,5-6"), response(206, 10, tag, "Content-Range: bytes 10-19/1000"), false, false},
		{"never/206 to no range", getRequest(), response(206, 10, tag, "Content-Range: bytes 10-19/1000"), false, false},
		{"never/multipart", getRequest("Range: bytes=10-19"), response(206, 10, tag, "Content-Range: bytes 10-19/1000", "Content-Type: multipart/byteranges; boundary=x"), false, false},
		{"never/total unknown", getRequest("Range: bytes=10-19"), response(206, 10, tag, "Content-Range: bytes 10-19/*"), false, false},
		{"never/length of another range", getRequest("Range: bytes=10-19"), response(206, 11, tag, "Content-Range: bytes 10-19/1000"), false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for mode, want := range map[ResumeMode]bool{ResumeOff: false, ResumeOn: tc.on, ResumeVerify: tc.verify} {
				var r Resumption
				if got := r.Begin(mode, tc.req, tc.res, resumeNow); got != want {
					t.Errorf("%s: got %v, want %v", mode, got, want)
				}
			}
		})
	}
}

func TestResumptionAsk(t *testing.T) {
	const old = "Sun, 01 Mar 2026 11:58:00 GMT"
	for _, tc := range []struct {
		name           string
		res            *http.Response
		rng, condition string
	}{
		{"whole by tag", response(200, 1000, `ETag: "v1"`, "Last-Modified: "+old), "bytes=100-", `"v1"`},
		{"whole by date", response(200, 1000, "Last-Modified: "+old), "bytes=100-", old},
		{"part", response(206, 500, `ETag: "v1"`, "Content-Range: bytes 10-509/1000"), "bytes=110-509", `"v1"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := getRequest("Range: bytes=10-509", `If-None-Match: "v0"`, `If-Match: "v1"`, "If-Modified-Since: "+old,
				"If-Unmodified-Since: "+old, `If-Range: "v0"`, "Accept-Encoding: gzip", "Authorization: secret")
			var r Resumption
			if !r.Begin(ResumeOn, req, tc.res, resumeNow) {
				t.Fatal("cannot be resumed")
			}
			r.Ask(req.Header, 100)
			want := header("Range: "+tc.rng, "If-Range: "+tc.condition, "Accept-Encoding: gzip", "Authorization: secret")
			if got, want := dump(req.Header), dump(want); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	req := getRequest("Range: bytes=10-509", `If-None-Match: "v0"`)
	var r Resumption
	r.Begin(ResumeVerify, req, response(200, 1000), resumeNow)
	if r.Ask(req.Header, 100); dump(req.Header) != dump(header("Range: bytes=10-509", `If-None-Match: "v0"`)) {
		t.Errorf("without a validator the same is asked again, got %s", dump(req.Header))
	}
}

func dump(h http.Header) string {
	var b bytes.Buffer
	_ = h.Write(&b)
	return b.String()
}

// begun is a response of 1000 bytes of which 100 were sent, with a validator.
func begun(t *testing.T, validator string) *Resumption {
	t.Helper()
	r := new(Resumption)
	if !r.Begin(ResumeOn, getRequest(), response(200, 1000, validator, "Content-Type: text/plain", "Content-Encoding: gzip"), resumeNow) {
		t.Fatal("cannot be resumed")
	}
	return r
}

// goodPart continues begun. Each other line replaces the field of that name; one
// without a value removes it.
func goodPart(validator string, others ...string) *http.Response {
	res := response(206, 900, "Content-Range: bytes 100-999/1000", "Content-Type: text/plain", "Content-Encoding: gzip", validator)
	for _, l := range others {
		name, value, _ := strings.Cut(l, ": ")
		if res.Header.Del(name); value != "" {
			res.Header.Add(name, value)
		}
	}
	return res
}

// TestPartChecksAreNeeded has, for each check, an answer that is wrong in what
// only this check sees: all checks refuse it, and without this one it would be
// spliced in.
func TestPartChecksAreNeeded(t *testing.T) {
	const tag, date = `ETag: "v1"`, "Last-Modified: Sun, 01 Mar 2026 11:58:00 GMT"
	status, longer, unzipped := goodPart(tag), goodPart(tag), goodPart(tag)
	status.StatusCode, longer.ContentLength, unzipped.Uncompressed = 200, 901, true
	for _, tc := range []struct {
		check, validator string
		res              *http.Response
	}{
		{"status", tag, status},
		{"content type", tag, goodPart(tag, "Content-Type: multipart/byteranges; boundary=x")},
		{"first byte", tag, func() *http.Response {
			res := goodPart(tag, "Content-Range: bytes 99-999/1000")
			res.ContentLength = 901
			return res
		}()},
		{"last byte", tag, func() *http.Response {
			res := goodPart(tag, "Content-Range: bytes 100-998/1000")
			res.ContentLength = 899
			return res
		}()},
		{"total length", tag, goodPart(tag, "Content-Range: bytes 100-999/1001")},
		{"total length", tag, goodPart(tag, "Content-Range: bytes 100-999/*")},
		{"length", tag, longer},
		{"validator", tag, goodPart(`ETag: "v2"`)},
		{"validator", tag, goodPart(`ETag: W/"v1"`)},
		{"validator", tag, goodPart(tag, "ETag")},
		{"validator", date, goodPart("Last-Modified: Sun, 01 Mar 2026 11:57:59 GMT")},
		{"validator", date, goodPart(date, "Last-Modified")},
		{"validator", date, goodPart(date, tag)},
		{"content coding", tag, goodPart(tag, "Content-Encoding: br")},
		{"content coding", tag, goodPart(tag, "Content-Encoding")},
		{"decompression", tag, unzipped},
	} {
		t.Run(tc.check, func(t *testing.T) {
			r := begun(t, tc.validator)
			if err := r.checkPart(goodPart(tc.validator), 100, partChecks); err != nil {
				t.Fatalf("the right answer is refused: %v", err)
			}
			var mismatch *MismatchError
			if err := r.checkPart(tc.res, 100, partChecks); !errors.As(err, &mismatch) || mismatch.Check != tc.check {
				t.Fatalf("all checks: got %v, want a mismatch of %s", err, tc.check)
			}
			var others []partCheck
			for _, c := range partChecks {
				if c.name != tc.check {
					others = append(others, c)
				}
			}
			if err := r.checkPart(tc.res, 100, others); err != nil {
				t.Errorf("without the check: got %v, want nothing, else this row shows nothing", err)
			}
		})
	}
}

// Content-Range itself is not in the table above: one that cannot be read has no
// positions that could be right.
func TestPartNeedsContentRange(t *testing.T) {
	r := begun(t, `ETag: "v1"`)
	for _, wrong := range []string{"Content-Range", "Content-Range: bytes 100-999", "Content-Range: bytes */1000"} {
		var mismatch *MismatchError
		err := r.checkPart(goodPart(`ETag: "v1"`, wrong), 100, partChecks)
		if !errors.As(err, &mismatch) || mismatch.Check != "Content-Range" {
			t.Errorf("%s: got %v, want a mismatch", wrong, err)
		}
	}
	twice := goodPart(`ETag: "v1"`)
	twice.Header.Add("Content-Range", "bytes 0-899/1000")
	if r.checkPart(twice, 100, partChecks) == nil {
		t.Error("two fields were accepted")
	}
}

// TestAgainChecksAreNeeded does the same for answers that come as a whole once
// more. The bytes are the same as far as the client has them.
func TestAgainChecksAreNeeded(t *testing.T) {
	had := func() *http.Response {
		return response(206, 500, "Content-Range: bytes 10-509/1000", "Content-Type: text/plain")
	}
	change := func(f func(res *http.Response)) *http.Response {
		res := had()
		f(res)
		return res
	}
	field := func(name, value string) *http.Response {
		return change(func(res *http.Response) { res.Header.Set(name, value) })
	}
	rows := map[string][]*http.Response{
		"status": {change(func(res *http.Response) { res.StatusCode = 200 })},
		"length": {change(func(res *http.Response) { res.ContentLength = 501 })},
		"place":  {field("Content-Range", "bytes 11-510/1000"), field("Content-Range", "bytes 10-509/1001"), field("Content-Range", "")},
		"header": {change(func(res *http.Response) { res.Uncompressed = true })},
	}
	for _, name := range sameFields {
		rows["header"] = append(rows["header"], field(name, "other"))
	}
	p := newPrefix(had())
	if err := p.checkAgain(had(), againChecks[:]); err != nil {
		t.Fatalf("the right answer is refused: %v", err)
	}
	for check, answers := range rows {
		others := slices.DeleteFunc(slices.Clone(againChecks[:]), func(c againCheck) bool { return c.name == check })
		for i, res := range answers {
			var mismatch *MismatchError
			if err := p.checkAgain(res, againChecks[:]); !errors.As(err, &mismatch) || mismatch.Check != check {
				t.Errorf("%s %d: got %v, want a mismatch of it", check, i, err)
			}
			if err := p.checkAgain(res, others); err != nil {
				t.Errorf("%s %d: without the check: got %v, want nothing, else this row shows nothing", check, i, err)
			}
		}
	}
	if len(rows) != len(againChecks) {
		t.Errorf("got rows for %d checks, want %d", len(rows), len(againChecks))
	}
}

// TestRereadChecksAreNeeded does the same for a part of what the client has.
func TestRereadChecksAreNeeded(t *testing.T) {
	const from, sent = 40, 100
	tag := `ETag: W/"v1"`
	body := bytes.Repeat([]byte("x"), 1000)
	part := func(others ...string) *http.Response {
		res := response(206, 960, "Content-Range: bytes 40-999/1000", "Content-Type: text/plain", tag)
		for _, l := range others {
			name, value, _ := strings.Cut(l, ": ")
			if res.Header.Del(name); value != "" {
				res.Header.Add(name, value)
			}
		}
		return res
	}
	longer := part()
	longer.ContentLength = 961
	early, late := part("Content-Range: bytes 39-999/1000"), part("Content-Range: bytes 40-998/1000")
	early.ContentLength, late.ContentLength = 961, 959
	rows := map[string][]*http.Response{
		"first byte":   {early},
		"last byte":    {late},
		"total length": {part("Content-Range: bytes 40-999/1001"), part("Content-Range: bytes 40-999/*")},
		"length":       {longer},
		"header":       {part(`ETag: W/"v2"`), part("ETag"), part("Content-Encoding: gzip"), part("Content-Type: text/css")},
	}
	var r Resumption
	if !r.Begin(ResumeVerify, getRequest(), response(200, 1000, "Content-Type: text/plain", tag), resumeNow) {
		t.Fatal("cannot be resumed")
	}
	r.Passed(body[:sent])
	r.prefix.overlap = 1
	whole := response(200, 1000, "Content-Type: text/plain", tag)
	whole.Body = io.NopCloser(bytes.NewReader(body))
	if _, err := r.Accept(cutAfter(whole, from), sent); !errors.Is(err, errCut) || r.Reread() != from {
		t.Fatalf("got %v and %d bytes read again", err, r.Reread())
	}
	if err := r.checkPart(part(), from, rereadChecks); err != nil {
		t.Fatalf("the right answer is refused: %v", err)
	}
	for check, answers := range rows {
		others := slices.DeleteFunc(slices.Clone(rereadChecks), func(c partCheck) bool { return c.name == check })
		for i, res := range answers {
			var mismatch *MismatchError
			if err := r.checkPart(res, from, rereadChecks); !errors.As(err, &mismatch) || mismatch.Check != check {
				t.Errorf("%s %d: got %v, want a mismatch of it", check, i, err)
			}
			if err := r.checkPart(res, from, others); err != nil {
				t.Errorf("%s %d: without the check: got %v, want nothing, else this row shows nothing", check, i, err)
			}
		}
	}
	if len(rows)+1 != len(rereadChecks) { // Content-Range itself, as above
		t.Errorf("got rows for %d checks, want %d", len(rows)+1, len(rereadChecks))
	}
}

func TestParseContentRange(t *testing.T) {
	for in, want := range map[string]ContentRange{
		"bytes 0-0/1":      {0, 0, 1},
		"Bytes 10-19/1000": {10, 19, 1000},
		"bytes 10-19/*":    {10, 19, -1},
		"bytes 0-9223372036854775805/9223372036854775806": {0, 1<<63 - 3, 1<<63 - 2},
		"bytes 00-09/0000000000000000100":                 {0, 9, 100},
	} {
		if got, ok := ParseContentRange(in); !ok || got != want {
			t.Errorf("%q: got %v %v, want %v", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", "bytes", "bytes ", "bytes 0-0", "bytes 0/1", "bytes -1/2", "bytes 0-/2", "bytes */1000", "bytes 5-4/10", "bytes 0-10/10",
		"items 0-0/1", "bytes=0-0/1", "bytes 0-0/", "bytes +0-0/1", "bytes 0-0/-1", "bytes  0-0/1", "bytes 0-0/1 ", "bytes 0 -0/1",
		"bytes 0-0/9223372036854775807", "bytes 0-0/18446744073709551617", "bytes 0-0/1/2", "bytes 0-0/1, bytes 0-0/1", "bytes 0x0-0/1",
	} {
		if got, ok := ParseContentRange(in); ok {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 10-19/*", "bytes */7", "bytes 9-1/3", "items 0-0/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseContentRange(s)
		if !ok {
			return
		}
		if c.First < 0 || c.Last < c.First || c.Length() <= 0 || c.Total >= 0 && c.Last >= c.Total || c.Total < -1 {
			t.Fatalf("%q: got the impossible %v", s, c)
		}
		total := "*"
		if c.Total >= 0 {
			total = strconv.FormatInt(c.Total, 10)
		}
		canonical := "bytes " + strconv.FormatInt(c.First, 10) + "-" + strconv.FormatInt(c.Last, 10) + "/" + total
		if again, ok := ParseContentRange(canonical); !ok || again != c {
			t.Errorf("%q: got %v, %q gives %v", s, c, canonical, again)
		}
	})
}
