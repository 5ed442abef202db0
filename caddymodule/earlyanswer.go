// SPDX-License-Identifier: Apache-2.0

// Answers of upstreams that come while an HTTP/1 client is still uploading.

package caddymodule

import "net/http"

// readByServer is how much of an upload net/http reads by itself before it sends
// an answer, so that the connection can be kept (maxPostHandlerReadBytes). If the
// client does not want to keep it, net/http reads nothing.
const readByServer = 256 << 10

// uploadsMore tells that so much of an upload is still to come, after the part that
// was taken, that net/http would close the connection. A client that reads only when
// it has sent everything gets a reset then instead of the answer. (HTTP/2 and HTTP/3
// stop an upload without losing the answer.)
func uploadsMore(r *http.Request, taken int64) bool {
	missing := r.ContentLength - taken
	return r.ProtoMajor == 1 && (r.ContentLength < 0 || missing > readByServer || r.Close && missing > 0)
}

// uploading tells that a part of an upload is still to come.
func (ex *exchange) uploading() bool {
	r := ex.request
	return r != nil && r.ProtoMajor == 1 && !ex.upgraded && !ex.body.ended.Load() && !awaitsContinue(ex, r)
}

func (ex *exchange) uploadsOn() bool {
	return ex.uploading() && uploadsMore(ex.request, ex.body.taken.Load())
}

// beforeHeader is called before the header of an answer is sent. Of an upload
// whose length is unknown net/http would first read a part, however long that
// takes; a rest that has become small by the time the answer's first bytes go out it
// would read and close, while the transport is still passing it on, which breaks off
// the exchange with the upstream.
func (ex *exchange) beforeHeader(w http.ResponseWriter, status int) {
	if status < http.StatusOK || !ex.uploading() {
		return
	}
	ex.early = ex.early || ex.uploadsOn()
	r := ex.request
	missing := r.ContentLength - ex.body.taken.Load()
	if r.ContentLength < 0 || missing > 0 {
		_ = http.NewResponseController(w).EnableFullDuplex()
		ex.endConnection(w)
	}
}

// listenOn reads on after an early answer, within limits, if the client has all of
// that: the end of an answer without a length is sent only after the handler.
func (ex *exchange) listenOn(w http.ResponseWriter) {
	if !ex.early || ex.drained || !ex.uploadsOn() || w.Header().Get("Content-Length") == "" {
		return
	}
	_ = http.NewResponseController(w).Flush()
	drain(ex, w)
}
