// SPDX-License-Identifier: Apache-2.0

// This file describes each fault as a point in a connection's life and an
// action there, so that the servers know points and actions and no fault names.

package faultinject

import "golang.org/x/net/http2"

// point is where in the life of a connection or request a fault strikes.
type point int

const (
	never point = iota
	whileListening
	onAccept
	inHandshake
	onHeader // the request's header was read
	onReuse  // the header of a connection's second or later request was read
	inUpload
	afterRequest
	inHeaders
	inBody
	whenIdle
)

// action is what is done there.
type action int

const (
	nothing action = iota
	byReset
	byClose
	byStall
	byStatus
	byGarbage
	byBadHeader
	byRSTStream
	byGoAway
	byGoAwayCalm
	byCertificate // the TLS configuration itself is the fault
	byPlaintext
	byAlert
)

// where says which protocols a fault exists in.
type where int

const (
	anywhere where = iota
	tlsOnly
	h2Only
)

// entry is one fault's description.
type entry struct {
	fault  Fault
	at     point
	how    action
	in     where
	code   http2.ErrCode // of byRSTStream
	status int           // of byStatus; 0 is the configured one
}

// catalogue is never written to.
var catalogue = [...]entry{
	{fault: None},
	{fault: Refuse, at: whileListening},
	{fault: ResetOnAccept, at: onAccept, how: byReset},
	{fault: CloseOnAccept, at: onAccept, how: byClose},
	{fault: StallOnAccept, at: onAccept, how: byStall},
	{fault: ResetAfterHeader, at: onHeader, how: byReset},
	{fault: ResetInUpload, at: inUpload, how: byReset},
	{fault: CloseInUpload, at: inUpload, how: byClose},
	{fault: ResetReused, at: onReuse, how: byReset},
	{fault: CloseReused, at: onReuse, how: byClose},
	{fault: ResetIdle, at: whenIdle, how: byReset},
	{fault: CloseIdle, at: whenIdle, how: byClose},
	{fault: ResetAfterRequest, at: afterRequest, how: byReset},
	{fault: CloseAfterRequest, at: afterRequest, how: byClose},
	{fault: ResetInHeaders, at: inHeaders, how: byReset},
	{fault: CloseInHeaders, at: inHeaders, how: byClose},
	{fault: ResetInBody, at: inBody, how: byReset},
	{fault: CloseInBody, at: inBody, how: byClose},
	{fault: Garbage, at: afterRequest, how: byGarbage},
	{fault: BadHeader, at: afterRequest, how: byBadHeader},
	{fault: StallBeforeHeaders, at: afterRequest, how: byStall},
	{fault: StallInHeaders, at: inHeaders, how: byStall},
	{fault: StallInBody, at: inBody, how: byStall},
	{fault: Status, at: afterRequest, how: byStatus},
	{fault: Status429, at: afterRequest, how: byStatus, status: 429},
	{fault: Status500, at: afterRequest, how: byStatus, status: 500},
	{fault: Status502, at: afterRequest, how: byStatus, status: 502},
	{fault: Status503, at: afterRequest, how: byStatus, status: 503},
	{fault: Status504, at: afterRequest, how: byStatus, status: 504},
	{fault: GoAway, at: onHeader, how: byGoAway, in: h2Only},
	{fault: GoAwayCalm, at: onHeader, how: byGoAwayCalm, in: h2Only},
	{fault: RefusedStream, at: onHeader, how: byRSTStream, in: h2Only, code: http2.ErrCodeRefusedStream},
	{fault: StreamCancel, at: afterRequest, how: byRSTStream, in: h2Only, code: http2.ErrCodeCancel},
	{fault: StreamInternalError, at: afterRequest, how: byRSTStream, in: h2Only, code: http2.ErrCodeInternal},
	{fault: StreamProtocolError, at: afterRequest, how: byRSTStream, in: h2Only, code: http2.ErrCodeProtocol},
	{fault: StreamCalm, at: afterRequest, how: byRSTStream, in: h2Only, code: http2.ErrCodeEnhanceYourCalm},
	{fault: StreamResetInBody, at: inBody, how: byRSTStream, in: h2Only, code: http2.ErrCodeInternal},
	{fault: StreamCancelInBody, at: inBody, how: byRSTStream, in: h2Only, code: http2.ErrCodeCancel},
	{fault: StreamCalmInBody, at: inBody, how: byRSTStream, in: h2Only, code: http2.ErrCodeEnhanceYourCalm},
	{fault: GoAwayInBody, at: inBody, how: byGoAway, in: h2Only},
	{fault: GoAwayCalmInBody, at: inBody, how: byGoAwayCalm, in: h2Only},
	{fault: H2ConnLost, at: afterRequest, how: byReset, in: h2Only},
	{fault: TLSExpired, at: inHandshake, how: byCertificate, in: tlsOnly},
	{fault: TLSWrongName, at: inHandshake, how: byCertificate, in: tlsOnly},
	{fault: TLSUntrusted, at: inHandshake, how: byCertificate, in: tlsOnly},
	{fault: TLSVersion, at: inHandshake, how: byCertificate, in: tlsOnly},
	{fault: TLSReset, at: inHandshake, how: byReset, in: tlsOnly},
	{fault: TLSClose, at: inHandshake, how: byClose, in: tlsOnly},
	{fault: TLSStall, at: inHandshake, how: byStall, in: tlsOnly},
	{fault: TLSPlaintext, at: inHandshake, how: byPlaintext, in: tlsOnly},
	{fault: TLSAlert, at: inHandshake, how: byAlert, in: tlsOnly},
	{fault: TLSClientCert, at: inHandshake, how: byCertificate, in: tlsOnly},
}

func lookup(f Fault) (entry, bool) {
	for _, e := range catalogue {
		if e.fault == f {
			return e, true
		}
	}
	return entry{}, false
}

// perConnection reports whether the dice are cast when a connection is
// accepted, and not for each request.
func (e entry) perConnection() bool { return e.at == onAccept || e.at == inHandshake }

// unprocessed reports whether the fault tells the client that the request was
// not processed. Such a request does not count as executed.
func (e entry) unprocessed() bool {
	return e.how == byGoAway && e.at == onHeader || e.code == http2.ErrCodeRefusedStream
}
