// SPDX-License-Identifier: Apache-2.0

// The proof by range: what a 206 has to be to continue a response.

package failover

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
)

// part is an answer that is to continue a response.
type part struct {
	*Resumption
	res  *http.Response
	sent int64
	cr   ContentRange
	ok   bool // cr could be read
}

// partCheck is one thing that has to be right. It returns what is wrong.
type partCheck struct {
	name string
	is   func(p *part) (wrong string)
}

// placeChecks are about which bytes they are.
var placeChecks = []partCheck{
	{checkRange, func(p *part) string { return differs(p.ok, true) }},
	{"first byte", func(p *part) string { return differs(p.cr.First, p.first+p.sent) }},
	{"last byte", func(p *part) string { return differs(p.cr.Last, p.last) }},
	{"total length", func(p *part) string { return differs(p.cr.Total, p.total) }},
	{"length", func(p *part) string { return p.lengthDiffers() }},
}

// partChecks are all that has to be right for the proof by range, rereadChecks for
// a part of what the client has already, which is to be hashed. Each check alone
// keeps two versions apart in some case, which a test proves.
var (
	partChecks = slices.Concat([]partCheck{
		{checkStatus, func(p *part) string { return differs(p.res.StatusCode, http.StatusPartialContent) }},
		{"content type", func(p *part) string { return p.mediaTypeDiffers() }},
	}, placeChecks, []partCheck{
		{checkValidator, func(p *part) string { return p.validatorDiffers() }},
		{"content coding", func(p *part) string { return differs(coding(p.res.Header), p.coding) }},
		{"decompression", func(p *part) string { return differs(p.res.Uncompressed, false) }},
	})
	rereadChecks = slices.Concat(placeChecks, []partCheck{
		{"header", func(p *part) string { return p.headerDiffers() }},
	})
)

// headerDiffers compares every field that says what the bytes are.
func (p *part) headerDiffers() string {
	if fieldsOf(p.res, partFields[:]...) != p.prefix.partFields {
		return "is another one"
	}
	return ""
}

// checkPart tells the first of the checks that fails.
func (r *Resumption) checkPart(res *http.Response, sent int64, checks []partCheck) error {
	p := &part{Resumption: r, res: res, sent: sent}
	p.cr, p.ok = contentRange(res.Header)
	if res.StatusCode == http.StatusOK { // If-Range: it has another version, or knows no ranges
		if wrong := p.validatorDiffers(); wrong != "" {
			return &MismatchError{Check: checkValidator, Detail: wrong}
		}
	}
	for _, c := range checks {
		if wrong := c.is(p); wrong != "" {
			return &MismatchError{Check: c.name, Detail: wrong}
		}
	}
	return nil
}

// differs says what is wrong with got; nothing if it is as wanted.
func differs[T comparable](got, want T) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("is %.80v, and not %.80v", fmt.Sprint(got), fmt.Sprint(want))
}

// mediaTypeDiffers also keeps out multipart/byteranges, of which the body is not
// the representation's bytes. A 206 need not repeat the type.
func (p *part) mediaTypeDiffers() string {
	if p.res.Header.Get("Content-Type") == "" {
		return ""
	}
	return differs(p.res.Header.Get("Content-Type"), p.mediaType)
}

func (p *part) lengthDiffers() string {
	if p.res.ContentLength < 0 {
		return "" // chunked: too few bytes will be noticed, more are not read
	}
	return differs(p.res.ContentLength, p.cr.Length())
}

// validatorDiffers compares as strongly as it can (RFC 9110 section 8.8.3.2). A
// 206 has to repeat an entity tag; one that does not repeat the date is refused.
func (p *part) validatorDiffers() string {
	if p.etag != "" {
		return differs(strings.Join(p.res.Header.Values("ETag"), ", "), p.etag)
	}
	if tags := p.res.Header.Values("ETag"); len(tags) > 0 {
		return differs(strings.Join(tags, ", "), "")
	}
	return differs(strings.Join(p.res.Header.Values("Last-Modified"), ", "), p.modified)
}

// ContentRange is the field of that name for bytes (RFC 9110 section 14.4).
// Total is -1 if unknown.
type ContentRange struct{ First, Last, Total int64 }

// Length is how many bytes there are from First to Last.
func (c ContentRange) Length() int64 { return c.Last - c.First + 1 }

func contentRange(h http.Header) (ContentRange, bool) {
	fields := h.Values("Content-Range")
	if len(fields) != 1 {
		return ContentRange{}, false
	}
	return ParseContentRange(fields[0])
}

// ParseContentRange reads "bytes first-last/total". Everything else is refused:
// other units, an unsatisfied range, ranges that cannot be.
func ParseContentRange(s string) (ContentRange, bool) {
	unit, s, _ := strings.Cut(s, " ")
	span, total, found := strings.Cut(s, "/")
	first, last, spans := strings.Cut(span, "-")
	c := ContentRange{Total: -1}
	if !found || !spans || !strings.EqualFold(unit, "bytes") ||
		!parsePosition(first, &c.First) || !parsePosition(last, &c.Last) || c.First > c.Last {
		return ContentRange{}, false
	}
	if total == "*" {
		return c, true
	}
	if !parsePosition(total, &c.Total) || c.Last >= c.Total {
		return ContentRange{}, false
	}
	return c, true
}

// parsePosition reads digits only, unlike strconv, which takes a sign. The
// highest number is left out, so that a length can be counted.
func parsePosition(s string, dst *int64) bool {
	if s == "" || len(s) > len("9223372036854775807") {
		return false
	}
	var n uint64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	*dst = int64(n)
	return n < math.MaxInt64
}
