// SPDX-License-Identifier: Apache-2.0

// Our cookie among others: found, preferred, stripped.

package ratelimit

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestFindCookie(t *testing.T) {
	s, here, there := testSigner(t), addrOf(1), addrOf(1<<16)
	text := func(id uint64, st Stage) string {
		return s.Mint(Token{ID: id, Issued: simStart, First: simStart, Stage: st}, Place{Addr: here})
	}
	kept, trusted := text(1, Kept), text(2, Trusted)
	foreign := s.Mint(Token{ID: 3, Issued: simStart, First: simStart, Stage: Trusted}, Place{Addr: there})
	many := strings.Repeat("rg=x; ", maxCookies)
	for _, tc := range []struct {
		name  string
		lines []string
		id    uint64
		err   error
	}{
		{"ok/none", nil, 0, nil},
		{"ok/others only", []string{"a=b; c=d"}, 0, nil},
		{"ok/alone", []string{"rg=" + kept}, 1, nil},
		{"ok/among others", []string{"a=b;  rg=" + kept + " ;c=d"}, 1, nil},
		{"ok/quoted", []string{`rg="` + kept + `"`}, 1, nil},
		{"ok/on another line", []string{"a=b", "rg=" + kept}, 1, nil},
		{"ok/the better one", []string{"rg=" + kept + "; rg=" + trusted}, 2, nil},
		{"ok/the one at home", []string{"rg=" + foreign + "; rg=" + kept}, 1, nil},
		{"ok/planted before", []string{"rg=x; rg=" + kept}, 1, ErrMalformed},
		{"bad/other name", []string{"xrg=" + kept + "; rgx=" + kept}, 0, nil},
		{"bad/too many", []string{many + "rg=" + kept}, 0, ErrMalformed},
		{"bad/far behind", []string{strings.Repeat("a=b; ", 64<<10) + "rg=" + kept}, 0, nil},
		{"bad/64 KiB", []string{"rg=" + strings.Repeat("A", 64<<10)}, 0, ErrMalformed},
	} {
		got, err := s.Find(tc.lines, PlainCookieName, Place{Addr: here}, simStart.Add(time.Second))
		if got.ID != tc.id || !errors.Is(err, tc.err) {
			t.Errorf("%s: got %d, %v, want %d, %v", tc.name, got.ID, err, tc.id, tc.err)
		}
	}
}

func TestStripCookie(t *testing.T) {
	ours := testSigner(t).Mint(Token{ID: 1, Issued: simStart, First: simStart}, Place{Addr: addrOf(1)})
	for in, want := range map[string]string{
		"":                              "",
		"a=b":                           "a=b",
		"__Host-rg=T":                   "",
		"a=b; __Host-rg=T; c=d":         "a=b; c=d",
		"__Host-rg=T; a=b":              "a=b",
		"a=b;__Host-rg=T":               "a=b",
		"a=b; __Host-rg=T;":             "a=b",
		"a=__Host-rg":                   "a=__Host-rg",
		"x__Host-rg=T; __Host-rgx=T":    "x__Host-rg=T; __Host-rgx=T",
		"__Host-rg=T;__Host-rg=T; a=\"": "a=\"",
		"__Host-rg=theirs; a=b":         "__Host-rg=theirs; a=b",
		"__Host-rg=theirs;__Host-rg=T":  "__Host-rg=theirs",
		"__Host-rg=\"T\"; a=b":          "a=b",
		";;__Host-rg=T;;a":              ";;;a",
	} {
		in, want = strings.ReplaceAll(in, "T", ours), strings.ReplaceAll(want, "T", ours)
		if got := StripCookie(in, CookieName); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestStripCookieAllocatesTheLineOnly(t *testing.T) {
	ours := testSigner(t).Mint(Token{ID: 1, Issued: simStart, First: simStart}, Place{Addr: addrOf(1)})
	for line, most := range map[string]float64{
		strings.Repeat(";", 16<<10) + "rg=" + ours: 0,
		"a=b; rg=" + ours + "; c=d":                1,
		strings.Repeat(";", 16<<10) + "rg=theirs":  0,
	} {
		if n := testing.AllocsPerRun(10, func() { StripCookie(line, PlainCookieName) }); n > most {
			t.Errorf("got %v allocations, want %v at most", n, most)
		}
	}
}

// What is left has none of our cookies, and nothing is added.
func FuzzStripCookie(f *testing.F) {
	f.Add("a=b; rg=x; c=d")
	s, addr := testSigner(f), addrOf(1)
	f.Fuzz(func(t *testing.T, line string) {
		got := StripCookie(line, PlainCookieName)
		if len(got) > len(line) || StripCookie(got, PlainCookieName) != got {
			t.Errorf("%q: got %q", line, got)
		}
		if tok, err := s.Find([]string{got}, PlainCookieName, Place{Addr: addr}, simStart); tok.ID != 0 || err != nil && err != ErrMalformed {
			t.Errorf("%q: still finds %+v, %v", line, tok, err)
		}
		_, _ = s.Find([]string{line}, PlainCookieName, Place{Addr: addr}, simStart)
	})
}
