// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"strings"
	"testing"
)

const chromeAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"

func TestNegotiate(t *testing.T) {
	long := strings.Repeat("a/b,", 600)
	for _, tc := range []struct {
		name   string
		accept []string
		want   Format
	}{
		{"ok/no field", nil, Plain},
		{"ok/empty field", []string{""}, Plain},
		{"ok/curl", []string{"*/*"}, Plain},
		{"ok/Chrome", []string{chromeAccept}, HTML},
		{"ok/Firefox image", []string{"image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"}, Plain},
		{"ok/htmx", []string{"text/html, */*"}, HTML},
		{"ok/axios", []string{"application/json, text/plain, */*"}, Problem},
		{"ok/jQuery", []string{"application/json, text/javascript, */*; q=0.01"}, Problem},
		{"ok/problem", []string{"application/problem+json"}, Problem},
		{"ok/any case", []string{"TEXT/Html;Q=0.5"}, HTML},
		{"ok/two fields", []string{"image/png", "text/html"}, HTML},

		{"weight/heavier wins", []string{"text/html;q=0.4, application/json;q=0.5"}, Problem},
		{"weight/three digits", []string{"text/html;q=0.501, application/json;q=0.5"}, HTML},
		{"weight/1.000", []string{"text/html;q=1.000, application/json;q=0.999"}, HTML},
		{"weight/0. is 0", []string{"text/html;q=0., application/json;q=0.1"}, Problem},
		{"weight/space", []string{"text/html ; q=0.4\t,\tapplication/json ;\tq=0.5"}, Problem},
		{"weight/zero excludes", []string{"*/*, text/plain;q=0"}, Problem},
		{"weight/zero for all", []string{"*/*;q=0"}, Plain},
		{"weight/zero for all but one", []string{"*/*;q=0, text/html;q=0.001"}, HTML},

		{"specific/type over any", []string{"*/*;q=0.1, text/*;q=0.2, text/plain;q=0"}, HTML},
		{"specific/heavier wildcard", []string{"text/html;q=0.1, */*;q=0.5"}, Plain},
		{"specific/own name over json", []string{"application/json, application/problem+json;q=0.1, text/html;q=0.5"}, HTML},
		{"specific/json counts", []string{"application/json;q=0.6, text/html;q=0.5"}, Problem},
		{"specific/parameters fit", []string{"text/html;charset=utf-8"}, HTML},
		{"specific/without parameters first", []string{"text/html;level=1, text/html;q=0.3, application/json;q=0.5"}, Problem},
		{"specific/application wildcard", []string{"application/*"}, Problem},

		{"equal/first named", []string{"text/html, application/json"}, HTML},
		{"equal/first named, other way", []string{"application/json, text/html"}, Problem},
		{"equal/plain named last", []string{"text/html, text/plain"}, HTML},
		{"equal/named over wildcard", []string{"*/*, text/html"}, HTML},
		{"equal/type over any", []string{"*/*, application/*"}, Problem},
		{"equal/one wildcard", []string{"text/*"}, Plain},

		{"none/image only", []string{"image/png"}, Plain},
		{"none/and plain refused", []string{"image/png, text/plain;q=0"}, Plain},

		{"list/empty elements", []string{" , ,,text/html,, "}, HTML},
		{"list/empty parameters", []string{"text/html;;;q=0.5;"}, HTML},
		{"list/quoted comma", []string{`text/html;a="x, application/json"`}, HTML},
		{"list/quoted quote", []string{`text/html;a="\",", application/json;q=0.5`}, HTML},
		{"list/extension after weight", []string{`text/html;q=0.5;ext="a b"`}, HTML},

		{"bad/no subtype", []string{"text/html, text"}, Plain},
		{"bad/empty subtype", []string{"text/html, text/"}, Plain},
		{"bad/star type", []string{"text/html, */html"}, Plain},
		{"bad/bare star", []string{"text/html, *"}, Plain},
		{"bad/weight without zero", []string{"text/html;q=.5"}, Plain},
		{"bad/weight above one", []string{"text/html;q=1.001"}, Plain},
		{"bad/weight negative", []string{"text/html;q=-1"}, Plain},
		{"bad/weight too exact", []string{"text/html;q=0.1234"}, Plain},
		{"bad/weight a word", []string{"text/html;q=0.x"}, Plain},
		{"bad/weight two digits", []string{"text/html;q=01"}, Plain},
		{"bad/weight quoted", []string{`text/html;q="0.5"`}, Plain},
		{"bad/weight empty", []string{"text/html;q="}, Plain},
		{"bad/parameter without value", []string{"text/html;level"}, Plain},
		{"bad/parameter with empty value", []string{"text/html;level="}, Plain},
		{"bad/space at equals sign", []string{"text/html;q =0.5"}, Plain},
		{"bad/open quote", []string{`text/html;a="x`}, Plain},
		{"bad/control in quote", []string{"text/html;a=\"\x01\""}, Plain},
		{"bad/rubbish behind", []string{"text/html x"}, Plain},
		{"bad/control", []string{"text/html\x00"}, Plain},

		{"bound/too many ranges", []string{strings.Repeat("a/b,", 32) + "text/html"}, Plain},
		{"bound/just enough ranges", []string{strings.Repeat("a/b,", 31) + "text/html"}, HTML},
		{"bound/rubbish beyond is not read", []string{"text/html," + strings.Repeat("a/b,", 31) + "*"}, HTML},
		{"bound/too long", []string{strings.Repeat(" ", 2048) + ",text/html"}, Plain},
		{"bound/element cut is ignored", []string{"text/html," + strings.Repeat(" ", 2030) + "application/json"}, HTML},
		{"bound/quote cut is ignored", []string{`text/html,a/b;c="` + strings.Repeat("x", 3000)}, HTML},
		{"bound/later line", []string{long[:2047], "text/html"}, Plain},
		{"bound/line that fills it may be cut", []string{"text/html,a/b;q=0.9" + strings.Repeat("x", 2029), ""}, HTML},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Negotiate(tc.accept); got != tc.want {
				t.Errorf("%q: got %d, want %d", tc.accept, got, tc.want)
			}
		})
	}
}

func TestNegotiateDoesNotAllocate(t *testing.T) {
	accept := []string{chromeAccept}
	if n := testing.AllocsPerRun(1000, func() { Negotiate(accept) }); n != 0 {
		t.Errorf("got %v allocs per call, want 0", n)
	}
}

// FuzzNegotiate: any input gives one of three forms, never one that no range in
// it lets in, and two lines mean what they mean joined (RFC 9110 section 5.3).
func FuzzNegotiate(f *testing.F) {
	f.Add("", "")
	f.Add(chromeAccept, "application/json;q=0.5")
	f.Add(`text/html;a="x, y\"";q=0.1`, "*/*;q=0")
	f.Add("application/json, text/plain, */*", " , ;;")
	f.Add(strings.Repeat("a/b,", 40), "text/html")
	f.Add("text/html,a/b;q=0.9"+strings.Repeat("x", 2029), "application/json")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, all := Negotiate([]string{a, b}), strings.ToLower(a+","+b)
		switch {
		case got > HTML:
			t.Fatalf("got %d, want a format", got)
		case got == HTML && !strings.Contains(all, "html") && !strings.Contains(all, "/*"):
			t.Errorf("%q: got HTML, that was not asked for", all)
		case got == Problem && !strings.Contains(all, "json") && !strings.Contains(all, "/*"):
			t.Errorf("%q: got problem+json, that was not asked for", all)
		}
		if strings.Contains(a, `"`) { // an open quote may swallow the joint
			return
		}
		if joined := Negotiate([]string{a + "," + b}); joined != got {
			t.Errorf("%q and %q: got %d, joined %d", a, b, got, joined)
		}
	})
}

func BenchmarkNegotiate(b *testing.B) {
	accept := []string{chromeAccept}
	b.ReportAllocs()
	for b.Loop() {
		Negotiate(accept)
	}
}
