// SPDX-License-Identifier: Apache-2.0

// Resume, through a real Caddy: what breaks off is finished, byte for byte, and
// two versions are never mixed.

package caddymodule_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// downloadSize is 64 MiB in the long form.
func downloadSize() int {
	if os.Getenv("RESET_GUARD_LONG") != "" {
		return 64 << 20
	}
	return 8 << 20
}

// resumeOptions of the directive. A stall costs its time in each test.
const resumeOptions = ` {
	failover {
		stall 300ms
		%s
	}
	%s
}`

// get downloads path and returns all that came, and how it ended.
func get(tb testing.TB, client *http.Client, url string, fields ...string) (*http.Response, []byte, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res, got, err
}

// TestDownloadsAreFinished: every origin breaks off every answer after 1 to 4
// MiB, by a reset, an early close and a stall in turn.
func TestDownloadsAreFinished(t *testing.T) {
	want := faultinject.Bytes(downloadSize())
	for version := 1; version <= 3; version++ {
		for _, c := range secureClients {
			t.Run(fmt.Sprintf("%s from HTTP/%d", c.name, version), func(t *testing.T) {
				var origins []*cutter
				for i := range 3 {
					origins = append(origins, (&cutter{
						name: fmt.Sprint(i), content: want, etag: `"v1"`, version: version,
						cut: everyAnswer(1<<20, 4<<20, rotated(i, cutReset, cutClose, cutStall)...),
					}).start(t))
				}
				to, transport := reached(origins)
				site := serveSecure(t, "reset_guard "+to+fmt.Sprintf(resumeOptions, "attempts 4", transport))
				res, got, err := get(t, c.start(t, site), site.url("/"))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("got %d of %d bytes and %v; %v", len(got), len(want), err, site.faults(t))
				}
				if res.Header.Get("ETag") != `"v1"` {
					t.Errorf("got header %v", res.Header)
				}
				resumedLines(t, site.server)
			})
		}
	}
}

// What one upstream cannot go on with another one finishes, whoever chooses.
func TestAnotherUpstreamFinishes(t *testing.T) {
	want := faultinject.Bytes(1 << 20)
	for _, policy := range []string{"", "lb_policy random", "lb_policy least_conn", "lb_policy ip_hash", "overload off"} {
		t.Run(policy, func(t *testing.T) {
			// Whichever is asked first breaks off, and from then on all that it is asked.
			var first atomic.Pointer[cutter]
			start := func(name string) *cutter {
				c := &cutter{name: name, content: want, etag: `"v1"`}
				c.cut = func(int64) (int, int) {
					if first.CompareAndSwap(nil, c) {
						return 200 << 10, cutReset
					}
					return -1, 0
				}
				c.edit = func(http.ResponseWriter, *http.Request) {
					if first.Load() == c {
						panic(http.ErrAbortHandler)
					}
				}
				return c.start(t)
			}
			a, b := start("a"), start("b")
			site := serve(t, "reset_guard "+join(a.addr, b.addr)+fmt.Sprintf(resumeOptions, "resume on", policy))
			if _, got, err := get(t, newClient(t), site.url("/")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d of %d bytes and %v, want all of them; %v", len(got), len(want), err, site.faults(t))
			}
		})
	}
}

// resumedLines checks that the log tells of resumes, and of nothing else.
func resumedLines(t *testing.T, s *server) {
	t.Helper()
	eventually(t, "lines in the log", func() bool { return len(s.faults(t)) > 0 })
	for _, l := range s.faults(t) {
		if l.text("action") != "resumed" || l.text("outcome") != "answered" || l.text("phase") != "body" || l.text("level") != "info" {
			t.Errorf("got %v, want a fault that was resumed", l)
		}
		if cause := l.text("cause"); cause != "reset" && cause != "closed" && cause != "timeout" {
			t.Errorf("got the cause %s", cause)
		}
	}
}

// TestVerifiedDownloadsAreFinished has no validator: every origin breaks off every
// answer, also those by which what the client has is compared. One that has no
// ranges, or no length, could never be got over if it always did: it answers every
// second request in full.
func TestVerifiedDownloadsAreFinished(t *testing.T) {
	want := faultinject.Bytes(downloadSize())
	always := everyAnswer(1<<20, 4<<20, cutReset, cutClose, cutStall)
	now := func(n int64) (int, int) {
		if n%2 == 0 {
			return -1, 0
		}
		return always(n)
	}
	for _, tc := range []struct {
		name string
		like *cutter
	}{
		{"ranges", &cutter{cut: always}},
		{"no ranges", &cutter{cut: now, noRanges: true}},
		{"chunked", &cutter{cut: now, chunked: true}},
	} {
		for _, c := range secureClients {
			t.Run(tc.name+" "+c.name, func(t *testing.T) {
				var origins []*cutter
				for i := range 3 {
					o := fresh(tc.like)
					o.name, o.content, o.cut, o.chunked = fmt.Sprint(i), want, tc.like.cut, tc.like.chunked
					origins = append(origins, o.start(t))
				}
				site := serveSecure(t, "reset_guard "+addrs(origins)+fmt.Sprintf(resumeOptions, "resume verify", ""))
				client := c.start(t, site)
				client.Timeout = 5 * time.Minute // a third of some hundred answers stall
				if _, got, err := get(t, client, site.url("/")); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("got %d of %d bytes and %v; %v", len(got), len(want), err, site.faults(t))
				}
			})
		}
	}
}

// TestRangesAreFinished: a request for a part gets that part.
func TestRangesAreFinished(t *testing.T) {
	whole := faultinject.Bytes(4 << 20)
	a := (&cutter{content: whole, etag: `"v1"`, cut: everyAnswer(300<<10, 400<<10, cutReset, cutClose)}).start(t)
	b := (&cutter{content: whole, etag: `"v1"`, cut: everyAnswer(300<<10, 400<<10, cutReset, cutClose)}).start(t)
	site := serve(t, "reset_guard "+join(a.addr, b.addr))
	client := newClient(t)
	for _, tc := range []struct {
		rng         string
		first, next int
	}{
		{"bytes=1000-", 1000, len(whole)},
		{"bytes=1000-2000999", 1000, 2001000},
		{"bytes=-1500000", len(whole) - 1500000, len(whole)},
	} {
		res, got, err := get(t, client, site.url("/"), "Range", tc.rng)
		if err != nil || res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, whole[tc.first:tc.next]) {
			t.Errorf("%s: got %d bytes and %v, want %d", tc.rng, len(got), err, tc.next-tc.first)
		}
	}
}

// TestBelowEncode: what Caddy compresses above us is whole all the same.
func TestBelowEncode(t *testing.T) {
	want := bytes.Repeat([]byte("all work and no play "), 100000)
	text := func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/plain") }
	a := (&cutter{content: want, etag: `"v1"`, edit: text, cut: everyAnswer(300<<10, 400<<10, cutReset, cutClose)}).start(t)
	site := serveSecure(t, "encode gzip\nreset_guard "+a.addr)
	for _, c := range secureClients {
		res, got, err := get(t, c.start(t, site), site.url("/"), "Accept-Encoding", "gzip")
		if err != nil || res.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: got %d bytes and %v, want a gzip", c.name, len(got), err)
			continue
		}
		zr, err := gzip.NewReader(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(zr); err != nil || !bytes.Equal(plain, want) {
			t.Errorf("%s: got %d of %d bytes and %v", c.name, len(plain), len(want), err)
		}
	}
}

// TestCodedBodiesAreFinished: what origins have compressed is finished as it is.
func TestCodedBodiesAreFinished(t *testing.T) {
	want := faultinject.Bytes(2 << 20) // stands for a gzip: nobody on the way looks into it
	coded := func() *cutter {
		return (&cutter{content: want, etag: `"v1"`, coding: "gzip", cut: everyAnswer(300<<10, 400<<10, cutReset, cutClose)}).start(t)
	}
	site := serveSecure(t, "reset_guard "+join(coded().addr, coded().addr))
	for _, c := range secureClients {
		for _, rng := range []string{"", "bytes=1000-1999999"} {
			fields, part := []string{"Accept-Encoding", "gzip"}, want
			if rng != "" {
				fields, part = append(fields, "Range", rng), want[1000:2000000]
			}
			res, got, err := get(t, c.start(t, site), site.url("/"), fields...)
			if err != nil || !bytes.Equal(got, part) || res.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("%s %s: got %d of %d bytes and %v", c.name, rng, len(got), len(part), err)
			}
		}
	}
}

// TestVersionsAreNeverMixed: the origin that has the beginning breaks off, the
// other one has something else.
func TestVersionsAreNeverMixed(t *testing.T) {
	const size = 1 << 20
	v1, v2 := faultinject.VersionBytes(1, size), faultinject.VersionBytes(2, size)
	monday := time.Now().Add(-48 * time.Hour)
	brokenRange := func(value string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", value)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(v2[:size/2])
			panic(http.ErrAbortHandler)
		}
	}
	for _, tc := range []struct {
		name       string
		one, other *cutter
	}{
		{"other ETag", &cutter{etag: `"v1"`}, &cutter{etag: `"v2"`}},
		{"other weak ETag", &cutter{etag: `"v1"`}, &cutter{etag: `W/"v1"`}},
		{"no ETag", &cutter{etag: `"v1"`}, &cutter{}},
		{"same ETag, other total", &cutter{etag: `"v1"`}, &cutter{etag: `"v1"`, content: faultinject.VersionBytes(2, size+1)}},
		{"same ETag, other coding", &cutter{etag: `"v1"`, coding: "x-a"}, &cutter{etag: `"v1"`, coding: "x-b"}},
		{"same ETag, no ranges", &cutter{etag: `"v1"`}, &cutter{etag: `"v1"`, noRanges: true}},
		{"same ETag, another place", &cutter{etag: `"v1"`}, &cutter{etag: `"v1"`, edit: brokenRange(fmt.Sprintf("bytes %d-%d/%d", 0, size-1, size))}},
		{"same ETag, no place", &cutter{etag: `"v1"`}, &cutter{etag: `"v1"`, edit: brokenRange("bytes */1048576")}},
		{"other Last-Modified", &cutter{modified: monday}, &cutter{modified: monday.Add(time.Second)}},
		{"no validator", &cutter{}, &cutter{}},
		{"weak validators", &cutter{etag: `W/"v1"`}, &cutter{etag: `W/"v1"`}},
		{"young Last-Modified", &cutter{modified: time.Now()}, &cutter{modified: time.Now()}},
	} {
		for _, mode := range []string{"on", "verify"} {
			t.Run(tc.name+"/"+mode, func(t *testing.T) {
				one, other := fresh(tc.one), fresh(tc.other)
				one.content, one.cut = v1, everyAnswer(200<<10, 300<<10, cutReset)
				if other.content == nil {
					other.content = v2
				}
				// Only the beginning is the first one's, so only the other one is left.
				one.edit = func(_ http.ResponseWriter, r *http.Request) {
					if one.answers.Load() > 1 {
						panic(http.ErrAbortHandler)
					}
				}
				a, b := one.start(t), other.start(t)
				site := serve(t, "reset_guard "+join(a.addr, b.addr)+fmt.Sprintf(resumeOptions, "resume "+mode, "lb_policy first"))
				_, got, err := get(t, newClient(t), site.url("/"))
				if err == nil || !bytes.HasPrefix(v1, got) {
					t.Fatalf("got %d bytes, of version 1: %v, and %v; want its beginning and an error", len(got), bytes.HasPrefix(v1, got), err)
				}
				eventually(t, "a line that says so", func() bool {
					lines := site.faults(t)
					return len(lines) > 0 && lines[len(lines)-1].text("outcome") == "aborted"
				})
			})
		}
	}
}

// fresh is the same origin without what it has counted.
func fresh(c *cutter) *cutter {
	return &cutter{
		content: c.content, etag: c.etag, coding: c.coding, modified: c.modified, noRanges: c.noRanges, edit: c.edit,
	}
}

// TestResumeOff lets it break off, as Caddy does.
func TestResumeOff(t *testing.T) {
	want := faultinject.Bytes(1 << 20)
	for _, options := range []string{"failover off", "failover {\nresume off\n}", "failover {\nattempts 1\n}"} {
		a := (&cutter{content: want, etag: `"v1"`, cut: everyAnswer(200<<10, 300<<10, cutReset)}).start(t)
		b := (&cutter{content: want, etag: `"v1"`}).start(t)
		site := serve(t, "reset_guard "+join(a.addr, b.addr)+" {\nlb_policy first\n"+options+"\n}")
		if _, got, err := get(t, newClient(t), site.url("/")); err == nil || !bytes.HasPrefix(want, got) {
			t.Errorf("%s: got %d bytes and %v, want an error", options, len(got), err)
		}
		if n := b.answers.Load(); n != 0 {
			t.Errorf("%s: the other origin was asked %d times", options, n)
		}
		_ = caddy.Stop()
	}
}

// TestDialInfoKey guards what the transport relies on: the key under which Caddy
// keeps where a request goes.
func TestDialInfoKey(t *testing.T) {
	di := reverseproxy.DialInfo{Address: "192.0.2.1:80"}
	got, ok := reverseproxy.GetDialInfo(context.WithValue(t.Context(), caddy.CtxKey("reverse_proxy.dial_info"), di))
	if !ok || got != di {
		t.Errorf("got %v %v: Caddy has another key now", got, ok)
	}
}
