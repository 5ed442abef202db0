// SPDX-License-Identifier: Apache-2.0

// Chooses the form of an answer from the Accept field (RFC 9110 section 12.5.1),
// with work bounded whatever a client sends.

package diagnose

import "strings"

// Format is the form of an answer.
type Format uint8

// The forms of an answer. Plain is what a client gets that states no wish.
const (
	Plain   Format = iota // text/plain
	Problem               // application/problem+json (RFC 9457)
	HTML                  // text/html
)

// What lies beyond is ignored. Browsers send under 200 bytes and 10 ranges.
const (
	maxAcceptBytes  = 2 << 10
	maxAcceptRanges = 32
)

// Negotiate chooses the form that the client likes best, from the values of its
// Accept fields.
//
// The range that fits an offer most specifically gives the offer its weight, and
// the heaviest offer wins. RFC 9110 does not say who wins among equals. Here it
// is the offer that was named over the one a wildcard lets in ("text/html, */*"
// is a wish for HTML), then the one named first: the order has no meaning in the
// RFC, but nothing better is left, and clients expect it. Where one wildcard
// lets in all, as curl's "*/*" does, it is plain text.
//
// application/json counts as problem+json, which any JSON parser reads.
// Parameters of ranges are not compared ("text/html;level=1" fits), but a range
// without them goes first. If nothing acceptable is left, or the field is
// malformed, it is disregarded, as section 12.5.1 allows: an error in a form
// that was not asked for tells more than a 406.
func Negotiate(accept []string) Format {
	var room [maxAcceptRanges]mediaRange
	ranges, ok := parseAccept(accept, room[:0])
	if !ok {
		return Plain
	}
	best, chosen := weigh(Plain, ranges), Plain
	for _, f := range [...]Format{Problem, HTML} {
		if w := weigh(f, ranges); w.better(best) {
			best, chosen = w, f
		}
	}
	return chosen
}

// How closely a range fits an offer, from not at all to exactly.
const (
	fitNone = iota
	fitAny
	fitType
	fitNearParams // application/json;x=y for problem+json
	fitNear
	fitNamedParams
	fitNamed
)

// weight is what an Accept field says about one offer.
type weight struct {
	q, fit, place int
}

// better compares two offers; the rule is Negotiate's.
func (w weight) better(than weight) bool {
	switch a, b := min(w.fit, fitNearParams), min(than.fit, fitNearParams); {
	case w.q != than.q:
		return w.q > than.q
	case a != b:
		return a > b
	default:
		return w.place < than.place
	}
}

// weigh finds the range that fits best; of equals, the first.
func weigh(f Format, ranges []mediaRange) weight {
	var w weight
	for i, r := range ranges {
		if fit := r.fit(f); fit > w.fit {
			w = weight{q: r.q, fit: fit, place: i}
		}
	}
	return w
}

// mediaRange is one element of Accept.
type mediaRange struct {
	typ, sub string
	params   bool
	q        int // in thousandths
}

func (r mediaRange) fit(f Format) int {
	typ, sub := "text", "plain"
	switch f {
	case HTML:
		sub = "html"
	case Problem:
		typ, sub = "application", "problem+json"
	}
	fit := fitNone
	switch {
	case r.typ == "*":
		return fitAny
	case !strings.EqualFold(r.typ, typ):
		return fitNone
	case r.sub == "*":
		return fitType
	case strings.EqualFold(r.sub, sub):
		fit = fitNamed
	case f == Problem && strings.EqualFold(r.sub, "json"):
		fit = fitNear
	}
	if r.params && fit != fitNone {
		fit--
	}
	return fit
}

// parseAccept appends the ranges of all lines, up to cap(ranges), and tells
// whether they were well formed as far as they were read.
func parseAccept(lines []string, ranges []mediaRange) ([]mediaRange, bool) {
	left := maxAcceptBytes
	for _, line := range lines {
		cut := len(line) >= left // a line that ends there may go on in the next
		if cut {
			line = line[:left]
		}
		left -= len(line) + 1 // the comma that joining the lines would take
		for more := true; more; {
			var element string
			element, line, more = cutElement(line)
			if cut && !more {
				return ranges, true // its end is unknown
			}
			if element = strings.Trim(element, ows); element == "" {
				continue // legal, RFC 9110 section 5.6.1.2
			}
			if len(ranges) == cap(ranges) {
				return ranges, true
			}
			r, ok := parseRange(element)
			if !ok {
				return nil, false
			}
			ranges = append(ranges, r)
		}
		if left <= 0 {
			break
		}
	}
	return ranges, true
}
