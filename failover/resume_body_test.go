// SPDX-License-Identifier: Apache-2.0

// Whatever origins answer and wherever they break off, a body that is resumed
// consists of the bytes of one version, or breaks off.

package failover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"pgregory.net/rapid"
)

var errCut = errors.New("connection reset")

// version is what an origin has; its bytes follow from id and size.
type version struct {
	id, size int
	tag      string
	coding   string
	noRanges bool
}

func (v version) bytes() []byte {
	b := make([]byte, v.size)
	for i := range b {
		b[i] = byte(i*7 + v.id*(i>>4))
	}
	return b
}

// answer is what an origin with this version answers to a request with header h.
// It ignores If-Range: the checks have to do without.
func (v version) answer(h http.Header) *http.Response {
	body, res := v.bytes(), response(200, int64(v.size))
	for name, value := range map[string]string{"ETag": v.tag, "Content-Encoding": v.coding} {
		if value != "" {
			res.Header.Set(name, value)
		}
	}
	first, last := 0, v.size-1
	if n, _ := fmt.Sscanf(h.Get("Range"), "bytes=%d-%d", &first, &last); n > 0 && !v.noRanges {
		last = min(last, v.size-1)
		if first <= last {
			res.StatusCode, res.ContentLength = 206, int64(last-first+1)
			res.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, v.size))
			body = body[first : last+1]
		}
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res
}

// cutAfter breaks a body off.
func cutAfter(res *http.Response, n int64) *http.Response {
	res.Body = io.NopCloser(io.MultiReader(io.LimitReader(res.Body, n), brokenBody{errCut}))
	return res
}

// world is a client's request and the origins that it meets.
type world struct {
	*rapid.T
	r      Resumption
	header http.Header
	tries  int
	cur    version // that was asked last
}

func (w *world) Passed(p []byte) { w.r.Passed(p) }

// Resume implements Resumer.
func (w *world) Resume(sent int64, err error) (io.ReadCloser, error) {
	for ; w.tries > 0; w.tries-- {
		if w.r.Reread() == 0 || !rapid.Bool().Draw(w.T, "stay") {
			w.r.StartOver()
			w.cur = anyVersion(w.T)
		} else if rapid.IntRange(0, 3).Draw(w.T, "changed") == 0 {
			w.cur = anyVersion(w.T) // in the middle of sending it again
		}
		h := w.header.Clone()
		w.r.Ask(h, sent)
		res := w.cur.answer(h)
		if rapid.Bool().Draw(w.T, "cut") {
			cutAfter(res, rapid.Int64Range(0, 300).Draw(w.T, "after"))
		}
		rest, aerr := w.r.Accept(res, sent)
		if aerr == nil {
			return io.NopCloser(rest), nil
		}
		err = aerr
	}
	return nil, err
}

func anyVersion(t *rapid.T) version {
	v := version{
		id:       rapid.IntRange(0, 2).Draw(t, "id"),
		size:     rapid.IntRange(200, 203).Draw(t, "size"),
		noRanges: rapid.IntRange(0, 4).Draw(t, "no ranges") == 0,
	}
	if rapid.IntRange(0, 3).Draw(t, "tagged") > 0 {
		v.tag = fmt.Sprintf(`"%d-%d"`, v.id, v.size) // strong: other bytes have another one
	}
	return v
}

func TestResumedBodyIsOfOneVersion(t *testing.T) {
	resumed := 0
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, header: make(http.Header), tries: 6}
		if rapid.Bool().Draw(t, "range") {
			w.header.Set("Range", fmt.Sprintf("bytes=%d-%d", rapid.IntRange(0, 50).Draw(t, "first"), rapid.IntRange(60, 300).Draw(t, "last")))
		}
		v := anyVersion(t)
		res := v.answer(w.header)
		mode := rapid.SampledFrom([]ResumeMode{ResumeOn, ResumeVerify}).Draw(t, "mode")
		if !w.r.Begin(mode, &http.Request{Header: w.header}, res, resumeNow) {
			return
		}
		if w.r.prefix != nil {
			w.r.prefix.overlap = 1
		}
		cutAfter(res, rapid.Int64Range(0, 150).Draw(t, "first cut"))
		var b Body
		b.Watch(res.Body, nil)
		b.ResumeWith(w)
		got, err := io.ReadAll(&b)
		if !isOneVersion(w, v, got, err == nil) {
			t.Fatalf("got %d bytes that are of no single version (%v)", len(got), err)
		}
		if err == nil {
			resumed++
		}
	})
	if resumed == 0 {
		t.Error("nothing was ever resumed: the test shows nothing")
	}
}

// isOneVersion tells whether got is what v answers, or the beginning of it.
// Without a tag it may be any version of which the client cannot tell the
// difference: where it begins in the same way, it takes the other one's place.
func isOneVersion(w *world, v version, got []byte, complete bool) bool {
	for id := range 3 {
		if v.tag != "" && id != v.id {
			continue
		}
		v.id = id
		want, _ := io.ReadAll(v.answer(w.header).Body)
		if bytes.HasPrefix(want, got) && (!complete || len(got) == len(want)) {
			return true
		}
	}
	return false
}

// countReader tells how much was read.
type countReader struct {
	io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// TestVerifyReadsNoMoreThanItMust: nothing if the header differs, exactly what
// was sent if all is well, and little after the first difference.
func TestVerifyReadsNoMoreThanItMust(t *testing.T) {
	const size, sent = 8 << 20, 5 << 20
	whole := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, tc := range []struct {
		name  string
		at    int // what is changed
		other *http.Response
		most  int64
		ok    bool
	}{
		{"the same", size, response(200, size), sent, true},
		{"changed behind what was sent", sent, response(200, size), sent, true},
		{"first byte", 0, response(200, size), 128 << 10, false},
		{"after 1 MiB", 1 << 20, response(200, size), 2<<20 + 32<<10, false},
		{"last byte that was sent", sent - 1, response(200, size), sent, false},
		{"other length", size, response(200, size+1), 0, false},
		{"other type", size, response(200, size, "Content-Type: text/css"), 0, false},
		{"other weak tag", size, response(200, size, `ETag: W/"2"`), 0, false},
		{"other status", size, response(206, size), 0, false},
		{"shorter than it says", -1, response(200, size), sent, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r Resumption
			if !r.Begin(ResumeVerify, getRequest(), response(200, size), resumeNow) {
				t.Fatal("cannot be resumed")
			}
			r.Passed(whole[:sent])
			content := bytes.Clone(whole)
			if tc.at < 0 {
				content = content[:sent-1]
			} else if tc.at < size {
				content[tc.at] ^= 1
			}
			read := &countReader{Reader: bytes.NewReader(content)}
			tc.other.Body = io.NopCloser(read)
			rest, err := r.Accept(tc.other, sent)
			if (err == nil) != tc.ok || read.n > tc.most {
				t.Fatalf("got %v after %d bytes, want ok %v after %d at the most", err, read.n, tc.ok, tc.most)
			}
			var mismatch *MismatchError
			if err != nil && !errors.As(err, &mismatch) {
				t.Errorf("got %v, want a mismatch", err)
			}
			if err == nil {
				if got, err := io.ReadAll(rest); err != nil || len(got) != size-sent {
					t.Errorf("rest: got %d bytes and %v, want %d", len(got), err, size-sent)
				}
			}
		})
	}
}

// TestRereadInParts: every answer breaks off long before the point that the client
// has come to, and each byte is read again all the same.
func TestRereadInParts(t *testing.T) {
	v := version{size: 1 << 20}
	for _, rng := range []string{"", "bytes=1000-900999"} {
		h := make(http.Header)
		if rng != "" {
			h.Set("Range", rng)
		}
		var r Resumption
		first := v.answer(h)
		if !r.Begin(ResumeVerify, &http.Request{Header: h}, first, resumeNow) {
			t.Fatal("cannot be resumed")
		}
		want, _ := io.ReadAll(first.Body)
		const sent = 750_000
		r.Passed(want[:sent])
		for asked := 1; ; asked++ {
			ask := h.Clone()
			r.Ask(ask, sent)
			rest, err := r.Accept(cutAfter(v.answer(ask), 100_000), sent)
			if err == nil {
				got, err := io.ReadAll(rest)
				if !errors.Is(err, errCut) || !bytes.HasPrefix(want[sent:], got) || asked != 8 {
					t.Errorf("%q: got %d bytes and %v after asking %d times, want a part of the rest after 8", rng, len(got), err, asked)
				}
				break
			}
			if r.Reread() != int64(asked)*100_000 {
				t.Fatalf("%q: got %v with %d bytes read again after asking %d times", rng, err, r.Reread(), asked)
			}
		}
		if r.Reread() != 0 || r.Spent() {
			t.Errorf("%q: got %d bytes read again, spent %v, want a fresh start", rng, r.Reread(), r.Spent())
		}
	}
}

// TestRereadOverlaps: the answer that goes on shows a good deal of what the client
// has.
func TestRereadOverlaps(t *testing.T) {
	v := version{size: 1 << 20}
	const sent = 500_000
	for after, kept := range map[int64]bool{sent - leastOverlap: true, sent - leastOverlap + 1: false, sent - 1: false} {
		var r Resumption
		r.Begin(ResumeVerify, getRequest(), v.answer(nil), resumeNow)
		r.Passed(v.bytes()[:sent])
		if _, err := r.Accept(cutAfter(v.answer(nil), after), sent); !errors.Is(err, errCut) || (r.Reread() == after) != kept {
			t.Errorf("broken off after %d: got %v and %d bytes that count, want them to: %v", after, err, r.Reread(), kept)
		}
	}
}

// TestRereadEnds: an origin that breaks off all the time is not asked for ever.
func TestRereadEnds(t *testing.T) {
	v := version{size: 2000}
	var r Resumption
	res := v.answer(nil)
	r.Begin(ResumeVerify, getRequest(), res, resumeNow)
	r.Passed(v.bytes()[:1000])
	for n := 0; !r.Spent(); n++ {
		if n > maxReread*firstMark/999+1 {
			t.Fatal("no end is seen")
		}
		r.StartOver()
		_, _ = r.Accept(cutAfter(v.answer(nil), 999), 1000)
	}
}

// TestPassingAllocatesNothing: a body that is resumed by range costs no more
// than any other, and the hash no memory per read.
func TestPassingAllocatesNothing(t *testing.T) {
	for _, mode := range []ResumeMode{ResumeOn, ResumeVerify} {
		var r Resumption
		r.Begin(mode, getRequest(), response(200, 1<<40, `ETag: "v1"`), resumeNow)
		p := make([]byte, 32<<10)
		if n := testing.AllocsPerRun(200, func() { r.Passed(p) }); n > 0 {
			t.Errorf("%s: got %v allocations per read, want 0", mode, n)
		}
	}
}

// TestBodyEndsAfterAFailedResume gives the same error again, without asking the
// resumer twice.
func TestBodyEndsAfterAFailedResume(t *testing.T) {
	asked := 0
	var b Body
	b.Watch(io.NopCloser(io.MultiReader(bytes.NewReader([]byte("abc")), brokenBody{errCut})), nil)
	b.ResumeWith(refuser(func() error { asked++; return fmt.Errorf("no other: %w", errCut) }))
	got, err := io.ReadAll(&b)
	if _, again := b.Read(make([]byte, 1)); string(got) != "abc" || !errors.Is(err, errCut) || again != err || asked != 1 {
		t.Errorf("got %q, %v and %v after asking %d times", got, err, again, asked)
	}
	if err := b.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

type refuser func() error

func (refuser) Passed([]byte)                                {}
func (f refuser) Resume(int64, error) (io.ReadCloser, error) { return nil, f() }
