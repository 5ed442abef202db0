// SPDX-License-Identifier: Apache-2.0

// The token's cookie among the others of a request.

package ratelimit

import (
	"strings"
	"time"
)

// CookieName is the cookie's over HTTPS; browsers bind the prefix to Secure,
// Path=/ and no Domain. PlainCookieName is for plain HTTP, where they refuse it.
const (
	CookieName      = "__Host-rg"
	PlainCookieName = "rg"
)

const (
	// maxCookies of our name are looked at: a sibling domain may have planted
	// some, but nobody makes us verify a thousand.
	maxCookies = 4
	// maxCookieBytes of each Cookie line are read, four times what browsers send.
	maxCookieBytes = 16 << 10
)

// Find verifies the cookies of this name in a request's Cookie lines and returns
// the best valid token, the zero one if there is none. The error is that of the
// last cookie that was not valid, and nil if there was none such.
func (s *Signer) Find(lines []string, name string, at Place, now time.Time) (best Token, err error) {
	tries := 0
	for _, line := range lines {
		line = line[:min(len(line), maxCookieBytes)]
		for line != "" && tries < maxCookies {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			value, ours := cookieValue(pair, name)
			if !ours {
				continue
			}
			tries++
			t, verr := s.Verify(value, at, now)
			if verr != nil {
				err = verr
			} else if better(t, best) {
				best = t
			}
		}
	}
	return best, err
}

// better prefers a token that is at home, then a higher stage.
func better(t, than Token) bool {
	if t.Home != than.Home {
		return t.Home
	}
	return than.ID == 0 || t.Stage > than.Stage
}

// cookieValue is that of a name=value pair with this name.
func cookieValue(pair, name string) (value string, ours bool) {
	k, v, ok := strings.Cut(pair, "=")
	if !ok || strings.Trim(k, " \t") != name {
		return "", false
	}
	return strings.Trim(v, " \t\""), true
}

// StripCookie returns a Cookie line without our cookies of this name, for what is
// sent on. Ours are those whose value has the form of a token: an application may
// have a cookie of the same name. All others stay byte for byte; a line without ours
// is returned as it is.
func StripCookie(line, name string) string {
	if !strings.Contains(line, name) {
		return line
	}
	var kept strings.Builder
	before, stripped := "", false // what stands before the first of ours
	for rest, first := line, true; first || rest != ""; first = false {
		begin := len(line) - len(rest)
		pair, _, _ := strings.Cut(rest, ";")
		rest = rest[min(len(pair)+1, len(rest)):]
		value, ours := cookieValue(pair, name)
		switch {
		case ours && IsToken(value):
			if !stripped {
				before, stripped = strings.TrimSuffix(line[:begin], ";"), true
			}
			continue
		case !stripped:
			continue
		case kept.Len() == 0:
			kept.Grow(len(line))
			kept.WriteString(before)
		}
		if kept.Len() > 0 {
			kept.WriteByte(';')
		}
		kept.WriteString(pair)
	}
	switch {
	case !stripped:
		return line
	case kept.Len() == 0:
		return strings.TrimLeft(before, " \t")
	}
	return strings.TrimLeft(kept.String(), " \t")
}

// IsToken tells that a cookie's value has the form of a token, whoever signed it.
func IsToken(value string) bool {
	var raw rawToken
	var scratch [TokenLength]byte
	return len(value) == TokenLength && parseToken(value, &raw, scratch[:]) == nil
}
