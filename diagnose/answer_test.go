// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/resetguard/caddy-resetguard/health"
)

const (
	someUUID = "6F9619FF-8B86-4D01-B42D-00C04FC964FF"
	evilID   = "<script>alert('x')</script>\"&{{.}}\r\nSet-Cookie: a=b\x1b[31m\u202e\xff"
	// evilShown is what cleanID leaves of it.
	evilShown = `<script>alert('x')</script>"&{{.}}Set-Cookie:a=b[31m`
)

var (
	upstreamFault = health.Fault{Cause: health.Reset, Phase: health.PhaseBody, Side: health.SideUpstream}
	busyFault     = health.Fault{Cause: health.Overloaded, RetryAfter: 30 * time.Second, StatusCode: 503}
)

func TestRenderPageEscapesID(t *testing.T) {
	contentType, body := Render(HTML, Judge(upstreamFault), evilID)
	if want := "text/html; charset=utf-8"; contentType != want {
		t.Errorf("got %q, want %q", contentType, want)
	}
	page := string(body)
	want := "<code>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;{{.}}Set-Cookie:a=b[31m</code>"
	if !strings.Contains(page, want) {
		t.Errorf("got no %s in %s", want, page)
	}
	if strings.Contains(page, "<script") {
		t.Errorf("unescaped id in %s", page)
	}
}

func TestRenderPage(t *testing.T) {
	worstID := strings.Repeat(`"`, 500)
	for _, f := range everyFault(t) {
		v := Judge(f)
		_, body := Render(HTML, v, worstID)
		if len(body) >= 4<<10 {
			t.Fatalf("%s/%s: got %d bytes, want under 4 KiB", f.Cause, f.Phase, len(body))
		}
		page := string(body)
		for _, part := range []string{`<html lang="en">`, `name="viewport"`, "prefers-color-scheme:dark", v.Title, "The fault is"} {
			if !strings.Contains(page, escaped(part)) {
				t.Errorf("%s/%s: got no %q", f.Cause, f.Phase, part)
			}
		}
		for _, outside := range []string{"http:", "https:", "src=", "href=", "url(", "<script", "@import"} {
			if strings.Contains(page, outside) {
				t.Errorf("%s/%s: page reaches outside with %q", f.Cause, f.Phase, outside)
			}
		}
		if n := strings.Count(page, `class="bad"`) + strings.Count(page, `class="way"`); n != 1 {
			t.Errorf("%s/%s: got %d stations at fault, want 1", f.Cause, f.Phase, n)
		}
	}
	wellFormed(t, Judge(busyFault))
}

// escaped is how html/template writes a text.
func escaped(s string) string {
	return strings.ReplaceAll(s, "'", "&#39;")
}

// wellFormed checks that tags are balanced.
func wellFormed(t *testing.T, v Verdict) {
	t.Helper()
	_, body := Render(HTML, v, someUUID)
	page := strings.TrimPrefix(string(body), "<!doctype html>")
	d := xml.NewDecoder(strings.NewReader(regexp.MustCompile("<meta[^>]*>").ReplaceAllString(page, "")))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in %s", err, body)
		}
	}
}

func TestRenderPageMarksTheFault(t *testing.T) {
	for side, want := range map[health.Side]string{
		health.SideClient:   `<b>You</b><small>The fault is here</small>`,
		health.SideProxy:    `<b>This server</b><small>The fault is here</small>`,
		health.SideUpstream: `<b>The site&#39;s origin</b><small>The fault is here</small>`,
		health.SideNetwork:  `<b>The site&#39;s origin</b><small>The fault is on the way here</small>`,
	} {
		_, body := Render(HTML, Verdict{Status: 502, Side: side}, "")
		if !strings.Contains(string(body), want) {
			t.Errorf("%s: got no %s in %s", side, want, body)
		}
		if strings.Contains(string(body), "Request ID") {
			t.Errorf("%s: names a request id, though there is none", side)
		}
	}
}

func TestRenderPageAdvice(t *testing.T) {
	for _, tc := range []struct {
		v    Verdict
		want string
	}{
		{Judge(busyFault), "Nothing is wrong with your device. Please try again in 30 seconds."},
		{Verdict{RetryAfter: time.Second}, "again in a second."},
		{Judge(upstreamFault), "Nothing is wrong with your device. Please try again in a minute."},
		{Judge(health.Fault{Cause: health.ClientGone}), "check your internet connection"},
	} {
		if got := advice(tc.v); !strings.Contains(got, tc.want) {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestRenderProblem(t *testing.T) {
	contentType, body := Render(Problem, Judge(busyFault), someUUID)
	if contentType != "application/problem+json" {
		t.Errorf("got %q, want application/problem+json", contentType)
	}
	want := `{"type":"about:blank","title":"Service Unavailable","status":503,` +
		`"detail":"The site is very busy. The site's origin has more to do than it can manage at the moment.",` +
		`"instance":"urn:uuid:6f9619ff-8b86-4d01-b42d-00c04fc964ff","fault_side":"upstream",` +
		`"request_id":"6F9619FF-8B86-4D01-B42D-00C04FC964FF"}` + "\n"
	if string(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
}

func TestRenderProblemWithEvilID(t *testing.T) {
	_, body := Render(Problem, Judge(upstreamFault), evilID)
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if _, has := got["instance"]; has || got["request_id"] != evilShown {
		t.Errorf("got %v, want request_id %q and no instance", got, evilShown)
	}
	if bytes.ContainsAny(body, "<>&") {
		t.Errorf("got %s, want no markup that a sniffing browser could run", body)
	}
}

func TestRenderPlain(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault health.Fault
		id    string
		want  string
	}{
		{"busy", busyFault, someUUID, "503 Service Unavailable: The site is very busy. The site's origin has more to do than it can manage at the moment.\n" +
			"The fault is at the site's origin. Please try again in 30 seconds. Request ID: " + someUUID + "\n"},
		{"no id", upstreamFault, "", "502 Bad Gateway: The site's answer broke off. The connection to the site's origin ended in the middle of the answer.\n" +
			"The fault is at the site's origin.\n"},
		{"evil id", upstreamFault, evilID, "502 Bad Gateway: The site's answer broke off. The connection to the site's origin ended in the middle of the answer.\n" +
			"The fault is at the site's origin. Request ID: " + evilShown + "\n"},
	} {
		contentType, body := Render(Plain, Judge(tc.fault), tc.id)
		if contentType != "text/plain; charset=utf-8" || string(body) != tc.want {
			t.Errorf("%s: got %s %q, want %q", tc.name, contentType, body, tc.want)
		}
	}
	if contentType, _ := Render(Format(99), Judge(busyFault), ""); contentType != "text/plain; charset=utf-8" {
		t.Errorf("unknown format: got %q, want plain text", contentType)
	}
}

func TestIsUUID(t *testing.T) {
	for _, tc := range []struct {
		id   string
		want bool
	}{
		{someUUID, true},
		{strings.ToLower(someUUID), true},
		{"", false},
		{someUUID + "0", false},
		{strings.ReplaceAll(someUUID, "-", "0"), false},
		{"6F9619FF-8B86-4D01-B42D-00C04FC964Fg", false},
		{"{F9619FF-8B86-4D01-B42D-00C04FC964F}", false},
	} {
		if got := isUUID(tc.id); got != tc.want {
			t.Errorf("%q: got %v, want %v", tc.id, got, tc.want)
		}
	}
}

func TestProxyStatus(t *testing.T) {
	for _, tc := range []struct {
		name  string
		proxy string
		v     Verdict
		want  string
	}{
		{"token", "edge.example.com:8080", Judge(upstreamFault), "edge.example.com:8080;error=http_response_incomplete"},
		{"string", "my proxy", Judge(upstreamFault), `"my proxy";error=http_response_incomplete`},
		{"string that starts with a digit", "10.0.0.1", Judge(upstreamFault), `"10.0.0.1";error=http_response_incomplete`},
		{"string with quotes", `a"b\c`, Judge(upstreamFault), `"a\"b\\c";error=http_response_incomplete`},
		{"none", "", Judge(upstreamFault), "reset_guard;error=http_response_incomplete"},
		{"neither fits", "Überproxy", Judge(upstreamFault), "reset_guard;error=http_response_incomplete"},
		{"line break", "a\r\nSet-Cookie: b", Judge(upstreamFault), "reset_guard;error=http_response_incomplete"},
		{"origin answered", "", Judge(busyFault), "reset_guard;error=destination_unavailable;received-status=503"},
		{"no error type", "", Judge(health.Fault{Cause: health.ClientGone}), "reset_guard"},
		{"impossible error type", "x", Verdict{ProxyStatusError: "\n"}, "reset_guard"},
	} {
		got := ProxyStatus(tc.proxy, tc.v)
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
		if list, err := httpsfv.UnmarshalList([]string{got}); err != nil || len(list) != 1 {
			t.Errorf("%s: %s is no list of one member: %v", tc.name, got, err)
		}
	}
}

// TestWritePages writes one page a side, to look at: DIAGNOSE_PAGES=dir go test
// -run WritePages ./diagnose
func TestWritePages(t *testing.T) {
	dir := os.Getenv("DIAGNOSE_PAGES")
	if dir == "" {
		dir = t.TempDir()
	}
	for _, f := range []health.Fault{
		upstreamFault,
		{Cause: health.LocalPorts},
		{Cause: health.Timeout, Side: health.SideNetwork, Phase: health.PhaseDial},
		{Cause: health.ClientGone},
	} {
		v := Judge(f)
		_, body := Render(HTML, v, someUUID)
		if err := os.WriteFile(filepath.Join(dir, string(v.Side)+".html"), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkRenderPage(b *testing.B) {
	v := Judge(upstreamFault)
	b.ReportAllocs()
	for b.Loop() {
		Render(HTML, v, someUUID)
	}
}
