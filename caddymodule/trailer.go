// SPDX-License-Identifier: Apache-2.0

// The trailer of a response whose start is held, or which was resumed.

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

// takeTrailer gives the response the trailer of the answer that went on, if that is
// the same as a whole: a trailer speaks of the message that it ends, such as its
// digest, and the end of a part is not that of the response.
func (rl *relay) takeTrailer(end error) {
	if rl.again != nil && end == nil {
		rl.first.held.Trailer = rl.again.Trailer
	}
}
