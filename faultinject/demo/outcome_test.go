// SPDX-License-Identifier: Apache-2.0

// Tests of what counts as right, as an error and as broken.

package demo

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestJudge(t *testing.T) {
	wanted := wanted[:answerSize]
	get, head := request{method: "GET", size: answerSize}, request{method: "HEAD", size: answerSize}
	put := withBody(request{method: "PUT"}, 100)
	header := func(method, sum string) http.Header {
		return http.Header{
			"X-Method": {method}, "X-Body-Sha256": {sum}, "Content-Length": {strconv.Itoa(answerSize)},
		}
	}
	flipped := slices.Clone(wanted)
	flipped[answerSize/2] ^= 1
	doErr := func(err error) error { return &url.Error{Op: "Get", URL: "http://x", Err: err} }
	otherSum := withBody(request{}, 99).sum

	for _, tc := range []struct {
		name string
		q    request
		r    reply
		want outcome
		why  string
	}{
		{"right/GET", get, reply{status: 200, header: header("GET", ""), body: wanted}, right, ""},
		{"right/HEAD", head, reply{status: 200, header: header("HEAD", "")}, right, ""},
		{"right/PUT", put, reply{status: 200, header: header("PUT", put.sum), body: wanted}, right, ""},

		{"error/502", get, reply{status: 502, body: []byte("sorry")}, httpError, "status 502"},
		{"error/503 to HEAD", head, reply{status: 503}, httpError, "status 503"},
		{"error/404", get, reply{status: 404}, httpError, "status 404"},

		{"broken/one bit", get, reply{status: 200, header: header("GET", ""), body: flipped}, broken, whyWrong},
		{"broken/one byte short", get, reply{status: 200, header: header("GET", ""), body: wanted[:answerSize-1]}, broken, whyWrong},
		{"broken/one byte more", get, reply{status: 200, header: header("GET", ""), body: append(slices.Clone(wanted), 0)}, broken, whyWrong},
		{"broken/another version", get, reply{status: 200, header: header("GET", ""), body: faultinject.VersionBytes(1, answerSize)}, broken, whyWrong},
		{"broken/no length", get, reply{status: 200, header: http.Header{"X-Method": {"GET"}}, body: wanted}, broken, whyWrong},
		{"broken/another method's answer", get, reply{status: 200, header: header("PUT", ""), body: wanted}, broken, whyWrong},
		{"broken/another body arrived", put, reply{status: 200, header: header("PUT", otherSum), body: wanted}, broken, whyWrong},
		{"broken/204", get, reply{status: 204}, broken, whyWrong},
		{"broken/redirect", get, reply{status: 302}, broken, whyWrong},

		{"broken/reset", get, reply{err: doErr(syscall.ECONNRESET)}, broken, "reset"},
		{"broken/closed", get, reply{err: doErr(io.EOF)}, broken, "closed"},
		{"broken/cut short", get, reply{status: 200, body: wanted[:10], err: io.ErrUnexpectedEOF}, broken, "closed"},
		{"broken/cut short error page", get, reply{status: 502, err: io.ErrUnexpectedEOF}, broken, "closed"},
		{"broken/not in time", get, reply{err: doErr(context.DeadlineExceeded)}, broken, "timeout"},
		{"broken/unheard of", get, reply{err: errors.New("something else")}, broken, "unknown"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why := judge(tc.q, tc.r)
			if got != tc.want || why != tc.why {
				t.Errorf("got (%v, %q), want (%v, %q)", got, why, tc.want, tc.why)
			}
		})
	}
}
