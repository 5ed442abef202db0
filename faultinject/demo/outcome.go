// SPDX-License-Identifier: Apache-2.0

// This file judges what a client saw.

package demo

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/resetguard/caddy-resetguard/health"
)

// outcome is what a request came to, in the client's eyes.
type outcome int

const (
	right     outcome = iota // the answer that a faultless origin gives, byte for byte
	httpError                // a complete, well-formed 4xx or 5xx
	broken                   // anything else: reset, cut short, not HTTP, not in time, wrong
)

// whyWrong is the reason for which a complete answer is broken.
const whyWrong = "wrong answer"

// reply is all that came back for a request.
type reply struct {
	status int // 0 if there was no response
	header http.Header
	body   []byte
	err    error // of the round trip, or of reading the body
}

// judge returns the outcome and, unless it is right, the reason in a word or
// two: the status, or what ended the connection.
func judge(q request, r reply) (outcome, string) {
	switch {
	case r.err != nil:
		return broken, string(health.Classify(r.err, health.Evidence{}).Cause)
	case r.status == http.StatusOK && r.answers(q):
		return right, ""
	case r.status >= 400 && r.status <= 599:
		return httpError, "status " + strconv.Itoa(r.status)
	default:
		return broken, whyWrong
	}
}

// answers tells whether a complete 200 is what the origins answer to q.
func (r reply) answers(q request) bool {
	if q.sum != "" && r.header.Get("X-Body-Sha256") != q.sum {
		return false // the origin has received something else than was sent
	}
	if r.header.Get("X-Method") != q.method || r.header.Get("Content-Length") != strconv.Itoa(q.size) {
		return false
	}
	if q.method == http.MethodHead {
		return len(r.body) == 0
	}
	return bytes.Equal(r.body, wanted[:q.size])
}
