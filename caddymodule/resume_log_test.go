// SPDX-License-Identifier: Apache-2.0

// What the log and the metrics tell of answers that broke off.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestResumeIsTold(t *testing.T) {
	const size = 1 << 20
	v1, v2 := faultinject.VersionBytes(1, size), faultinject.VersionBytes(2, size)
	unavailable := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, tc := range []struct {
		name    string
		other   *cutter
		mended  bool // the first one finishes its answer itself
		options string
		// lines are those of the log: level, upstream (a or b), cause, action, outcome, reason.
		lines []string
		error string // in the last line
		hint  string
	}{
		{
			name: "finished by the other", other: &cutter{etag: `"v1"`, content: v1},
			lines: []string{"info a reset resumed answered "},
		},
		{
			name: "another version, finished by itself", other: &cutter{etag: `"v2"`, content: v2}, mended: true,
			lines: []string{"info a reset resumed answered ", "warn b mismatch resumed answered "},
			error: `validator is "v2", and not "v1"`, hint: "ETags",
		},
		{
			name: "another version", other: &cutter{etag: `"v2"`, content: v2},
			lines: []string{"info a reset resumed aborted ", "warn b mismatch resumed aborted ", "error a closed gave_up aborted other_version"},
			hint:  "had another version",
		},
		{
			name: "no ranges", other: &cutter{etag: `"v1"`, content: v1, noRanges: true}, options: "attempts 2",
			lines: []string{"info a reset resumed aborted ", "error b mismatch gave_up aborted no_rest"},
			error: "status is 200, and not 206", hint: "ranges",
		},
		{
			name: "not there", other: &cutter{edit: unavailable}, options: "attempts 2",
			lines: []string{"info a reset resumed aborted ", "error b mismatch gave_up aborted no_rest"},
			error: "status is 404, and not 206", hint: "releases",
		},
		{
			name: "off", other: &cutter{etag: `"v1"`, content: v1}, options: "resume off",
			lines: []string{"error a reset gave_up aborted resume_off"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			one := &cutter{etag: `"v1"`, content: v1}
			one.cut = func(n int64) (int, int) {
				if n == 1 {
					return 200 << 10, cutReset
				}
				return -1, 0
			}
			one.edit = func(http.ResponseWriter, *http.Request) {
				if one.answers.Load() > 1 && !tc.mended {
					panic(http.ErrAbortHandler)
				}
			}
			a, b := one.start(t), tc.other.start(t)
			options := tc.options
			if tc.name == "another version" {
				options = "attempts 3"
			}
			s := serve(t, "reset_guard "+join(a.addr, b.addr)+fmt.Sprintf(resumeOptions, options, "lb_policy first"))
			_, got, err := get(t, newClient(t), s.url("/"))
			if answered := !strings.Contains(tc.lines[0], "aborted"); answered != (err == nil && bytes.Equal(got, v1)) {
				t.Fatalf("got %d bytes and %v", len(got), err)
			}
			eventually(t, "lines", func() bool { return len(s.faults(t)) >= len(tc.lines) })
			names := map[string]string{a.addr: "a", b.addr: "b"}
			var lines []string
			for _, l := range s.faults(t) {
				lines = append(lines, strings.Join([]string{l.text("level"), names[l.text("upstream")], l.text("cause"), l.text("action"), l.text("outcome"), l.text("reason")}, " "))
				expect(t, "status", l["status"], any(float64(http.StatusOK)))
			}
			if strings.Join(lines, "\n") != strings.Join(tc.lines, "\n") {
				t.Errorf("got the lines\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(tc.lines, "\n"))
			}
			last := s.faults(t)[len(lines)-1]
			if !strings.Contains(last.text("error"), tc.error) || !strings.Contains(last.text("hint"), tc.hint) {
				t.Errorf("got %q, %q; want %q, %q in them", last.text("error"), last.text("hint"), tc.error, tc.hint)
			}
			for _, l := range s.faults(t) {
				if strings.Contains(l.text("error"), "%!") {
					t.Errorf("a text that is none: %v", l)
				}
			}
			if strings.HasPrefix(tc.name, "finished by") {
				expect(t, "resumed_by", s.faults(t)[0].text("resumed_by"), b.addr)
				expect(t, "resumed_at", s.faults(t)[0]["resumed_at"].(float64) > 0, true)
			}
		})
	}
}

func TestResumeIsCounted(t *testing.T) {
	const size = 1 << 20
	content := faultinject.Bytes(size)
	start := func(etag string, cut bool) *cutter {
		c := &cutter{etag: etag, content: content}
		if cut {
			c.cut = everyAnswer(200<<10, 300<<10, cutReset)
		}
		return c.start(t)
	}
	broken, good, other := start(`"v1"`, true), start(`"v1"`, false), start(`"v2"`, false)
	s := serveAdmin(t, "metrics", fmt.Sprintf(
		"handle /mended {\nreset_guard %s %s {\nlb_policy first\n}\n}\nhandle /cut {\nreset_guard %s %s {\nlb_policy first\nfailover {\nattempts 2\n}\n}\n}",
		broken.addr, good.addr, broken.addr, other.addr))
	if _, got, err := get(t, newClient(t), s.url("/mended")); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("got %d bytes and %v", len(got), err)
	}
	if _, got, err := get(t, newClient(t), s.url("/cut")); err == nil || !bytes.HasPrefix(content, got) {
		t.Fatalf("got %d bytes and %v, want an error", len(got), err)
	}
	for name, want := range map[string]float64{
		fmt.Sprintf("reset_guard_resumed_responses_total{upstream=%q}", good.addr):                            1,
		fmt.Sprintf("reset_guard_aborted_total{reason=\"other_version\",upstream=%q}", broken.addr):           1,
		fmt.Sprintf("reset_guard_resumes_total{upstream=%q}", broken.addr):                                    2,
		fmt.Sprintf("reset_guard_faults_total{cause=\"mismatch\",phase=\"headers\",upstream=%q}", other.addr): 1,
	} {
		eventually(t, name, func() bool { return s.metrics(t)[name] == want })
	}
}

// A client that leaves while its answer goes on from another origin is no aborted answer,
// and no fault of that origin.
func TestResumedAnswerIsLeft(t *testing.T) {
	content := faultinject.Bytes(8 << 20)
	one, other := &cutter{etag: `"v1"`, content: content}, &cutter{etag: `"v1"`, content: content}
	one.cut = everyAnswer(200<<10, 200<<10, cutReset)
	other.cut = everyAnswer(1<<20, 1<<20, cutStall)
	a, b := one.start(t), other.start(t)
	s := serveAdmin(t, "metrics", "reset_guard "+join(a.addr, b.addr)+" {\nlb_policy first\n}")
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", s.addr)
	if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil { // the rest comes from b
		t.Fatal(err)
	}
	_ = conn.Close()
	eventually(t, "a line", func() bool { return len(s.faults(t)) >= 1 })
	m := s.metrics(t)
	expect(t, "resumes", sumOf(m, "reset_guard_resumes_total"), 1)
	expect(t, "aborted answers", sumOf(m, "reset_guard_aborted_total"), 0)
}
