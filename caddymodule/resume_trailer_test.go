// SPDX-License-Identifier: Apache-2.0

// Trailers of answers that are finished: those of the same answer, as a whole,
// arrive, and those of a part do not.

package caddymodule_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestTrailersOfFinishedAnswers(t *testing.T) {
	want := faultinject.Bytes(1 << 20)
	for _, tc := range []struct {
		name, options, trailer string
		like                   *cutter
	}{
		{"as a whole", "resume verify", "42", &cutter{chunked: true}},
		{"as a whole, not held", "resume verify\nhold off", "42", &cutter{chunked: true}},
		{"a part", "resume on", "", &cutter{version: 2, etag: `"v1"`}},
		{"a part, not held", "resume on\nhold off", "", &cutter{version: 2, etag: `"v1"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			origin := &cutter{
				content: want, chunked: tc.like.chunked, version: tc.like.version, etag: tc.like.etag,
				cut: func(n int64) (int, int) {
					if n == 1 {
						return 300 << 10, cutClose
					}
					return -1, 0
				},
				edit: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(http.TrailerPrefix+"X-Sum", "42") },
			}
			to, transport := reached([]*cutter{origin.start(t)})
			site := serve(t, "reset_guard "+to+" {\nfailover {\n"+tc.options+"\n}\n"+transport+"\n}")
			res, got, err := get(t, newClient(t), site.url("/"))
			if err != nil || !bytes.Equal(got, want) || origin.answers.Load() != 2 {
				t.Fatalf("got %d of %d bytes and %v in %d answers; %v", len(got), len(want), err, origin.answers.Load(), site.faults(t))
			}
			if sum := res.Trailer.Get("X-Sum"); sum != tc.trailer {
				t.Errorf("got the trailer %q, want %q", sum, tc.trailer)
			}
		})
	}
}

// quic-go says the same of a malformed trailer of an answer as of a request's.
func TestTrailersOfHTTP3OriginsAreTheirs(t *testing.T) {
	var origins []string
	for range 2 {
		origins = append(origins, "https://"+startHTTP3(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			if r.URL.Path == "/late" {
				time.Sleep(100 * time.Millisecond)
			}
			w.Header().Set(http.TrailerPrefix+"X-A", "a\x01b")
		})))
	}
	s := serve(t, "reset_guard "+join(origins...)+" {\n transport http {\n versions 3\n tls_insecure_skip_verify\n }\n}")
	for _, path := range []string{"/", "/late"} {
		res, _, err := get(t, newClient(t), s.url(path))
		if res == nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusBadRequest {
			t.Errorf("%s: an ordinary GET got 400", path)
		}
	}
	for _, l := range s.faults(t) {
		if l.text("side") == "client" {
			t.Errorf("the origin's malformed trailer is told as the client's doing")
		}
	}
}
