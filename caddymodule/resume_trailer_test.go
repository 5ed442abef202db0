// SPDX-License-Identifier: Apache-2.0

// Trailers of answers that are finished: those of the same answer, as a whole,
// arrive, and those of a part do not.

package caddymodule_test

import (
	"bytes"
	"net/http"
	"testing"

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
