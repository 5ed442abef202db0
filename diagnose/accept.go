// SPDX-License-Identifier: Apache-2.0

// The grammar of one element of Accept (RFC 9110 sections 5.6 and 12.5.1),
// without allocating: mime.ParseMediaType makes a map of each.

package diagnose

import "strings"

const ows = " \t" // optional whitespace, RFC 9110 section 5.6.3

// cutElement splits a list at its first comma outside a quoted string. more
// tells that there was one.
func cutElement(list string) (element, rest string, more bool) {
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case c == ',' && !quoted:
			return list[:i], list[i+1:], true
		}
	}
	return list, "", false
}

// parseRange reads a media range with its parameters and weight. s is not empty
// and has no whitespace around it.
func parseRange(s string) (mediaRange, bool) {
	r := mediaRange{q: 1000}
	typ, s := cutToken(s)
	if typ == "" || !strings.HasPrefix(s, "/") {
		return r, false
	}
	sub, s := cutToken(s[1:])
	if sub == "" || typ == "*" && sub != "*" {
		return r, false
	}
	r.typ, r.sub = typ, sub
	weighed := false
	for {
		name, value, rest, ok := cutParam(s)
		switch {
		case !ok:
			return r, false
		case rest == "" && name == "":
			return r, true
		case strings.EqualFold(name, "q") && !weighed:
			weighed = true
			if r.q, ok = parseWeight(value); !ok {
				return r, false
			}
		case name != "" && !weighed: // what follows q was never the range's
			r.params = true
		}
		s = rest
	}
}

// cutParam splits one ";name=value" off s. name is empty for the empty
// parameter, which RFC 9110 section 5.6.6 allows, and at the end of s.
func cutParam(s string) (name, value, rest string, ok bool) {
	if s = strings.TrimLeft(s, ows); s == "" {
		return "", "", "", true
	}
	if s[0] != ';' {
		return "", "", "", false
	}
	s = strings.TrimLeft(s[1:], ows)
	if s == "" || s[0] == ';' {
		return "", "", s, true
	}
	name, s = cutToken(s)
	if name == "" || !strings.HasPrefix(s, "=") {
		return "", "", "", false
	}
	value, rest, ok = cutValue(s[1:])
	return name, value, rest, ok
}

// cutValue splits a token or a quoted string off s. A quoted value stays quoted:
// nobody here looks into it.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[:i+1], s[i+1:], true
		case c == '\\':
			i++
		case c < ' ' && c != '\t', c == 0x7f:
			return "", "", false
		}
	}
	return "", "", false
}

// parseWeight reads a qvalue (RFC 9110 section 12.4.2) into thousandths.
func parseWeight(s string) (int, bool) {
	if s == "" || len(s) > len("0.000") || s[0] != '0' && s[0] != '1' || len(s) > 1 && s[1] != '.' {
		return 0, false
	}
	q, unit := int(s[0]-'0')*1000, 100
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		q += int(s[i]-'0') * unit
		unit /= 10
	}
	return q, q <= 1000
}

// cutToken splits the longest token (RFC 9110 section 5.6.2) off s.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
