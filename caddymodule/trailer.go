// SPDX-License-Identifier: Apache-2.0

// The trailer of a response whose start is held.

package caddymodule

import "net/http"

// withOwnTrailer returns a copy of res with a trailer of its own, if res can
// have one. While the start of the body is held it is read in the background,
// and net/http puts the trailer into res as that comes upon the end: at a time
// when Caddy's proxy may be looking at it.
func (a *attempt) withOwnTrailer(res *http.Response) *http.Response {
	if res.ProtoMajor == 1 && res.ContentLength >= 0 {
		return res // HTTP/1 has trailers in chunked bodies only
	}
	held := *res
	held.Trailer = res.Trailer.Clone()
	a.received, a.held = res, &held
	return a.held
}

// takeTrailer gives the response its trailer once the body was read to its end.
func (a *attempt) takeTrailer(end error) {
	if a.received != nil && end == nil {
		a.held.Trailer = a.received.Trailer
	}
}
