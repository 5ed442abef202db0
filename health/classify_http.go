// SPDX-License-Identifier: Apache-2.0

// Faults that the HTTP layers report: HTTP/2, HTTP/3, broken HTTP/1, statuses.

package health

import (
	"errors"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// classifyHTTP2 reads stream errors and GOAWAY. Two HTTP/2 clients may be at
// work (x/net's and the one bundled with net/http); the bundled one's types are
// not exported, so some are known only by their text.
func classifyHTTP2(f Fault) (Fault, bool) {
	var stream http2.StreamError
	if errors.As(f.Err, &stream) {
		return f.streamReset(stream.Code), true
	}
	//lint:ignore SA1019 Caddy configures x/net's client, which returns this type
	var goAway http2.GoAwayError
	if errors.As(f.Err, &goAway) {
		return f.goAway(goAway.ErrCode == http2.ErrCodeEnhanceYourCalm), true
	}
	if msg, ok := says(f.Err, "http2: Transport: cannot retry err ["); ok {
		return f.opaqueHTTP2(msg), true
	}
	if msg, ok := says(f.Err, "http2: Transport received GOAWAY from server"); ok {
		// Said only of streams above the last one that the origin accepted.
		f = f.goAway(strings.Contains(msg, "ENHANCE_YOUR_CALM"))
		f.Safety = Unprocessed
		return f, true
	}
	if msg, ok := says(f.Err, "http2: server sent GOAWAY and closed the connection"); ok {
		msg, _, _ = strings.Cut(msg, ", debug=")
		return f.goAway(strings.Contains(msg, "ErrCode=ENHANCE_YOUR_CALM")), true
	}
	if _, ok := says(f.Err, "http2: client connection lost"); ok {
		f.Cause, f.Side = Timeout, SideNetwork // its ping was not answered
		return f, true
	}
	if _, ok := says(f.Err, "http2: client conn is closed"); ok {
		f.Cause = Closed // met by an upload that waited to go on
		return f, true
	}
	if isHTTP2Violation(f.Err) {
		f.Cause = Protocol
		return f, true
	}
	return f, false
}

// says finds the first error in err's chain that begins with one of texts, and
// returns the whole of what it says. Only the beginning is sure to be this
// side's own words: further on, an error may quote the origin.
func says(err error, texts ...string) (string, bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		msg := err.Error()
		for _, text := range texts {
			if strings.HasPrefix(msg, text) {
				return msg, true
			}
		}
	}
	return "", false
}

func (f Fault) streamReset(code http2.ErrCode) Fault {
	switch code {
	case http2.ErrCodeRefusedStream:
		f.Cause, f.Weight, f.Safety = RefusedStream, 0, Unprocessed
	case http2.ErrCodeEnhanceYourCalm:
		f.Cause, f.Weight = Overloaded, 0
	case http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeFrameSize, http2.ErrCodeCompression:
		f.Cause = Protocol
	default:
		f.Cause = Reset
	}
	return f
}

// IsCancelled tells that an HTTP/2 origin ended the stream with CANCEL.
func IsCancelled(err error) bool {
	var stream http2.StreamError
	return errors.As(err, &stream) && stream.Code == http2.ErrCodeCancel
}

// goAway is an origin that ends the connection. Streams up to the last id may
// have been acted on.
func (f Fault) goAway(calm bool) Fault {
	f.Cause, f.Weight = GoAway, 0
	if calm {
		f.Cause = Overloaded
	}
	return f
}

// opaqueHTTP2 is what is left of a refused request whose body could not be
// rewound: only the text tells why.
func (f Fault) opaqueHTTP2(msg string) Fault {
	switch {
	case strings.Contains(msg, "GOAWAY"), strings.Contains(msg, "conn not usable"):
		f.Cause, f.Weight, f.Safety = GoAway, 0, Unprocessed
	case strings.Contains(msg, "REFUSED_STREAM"):
		f.Cause, f.Weight, f.Safety = RefusedStream, 0, Unprocessed
	default:
		f.Cause = Protocol
	}
	return f
}

// isHTTP2Violation recognises what both clients say of frames that break the
// rules.
func isHTTP2Violation(err error) bool {
	_, ok := says(err,
		"connection error: ", "http2: connection error: ", "http2: frame too large",
		"http2: failed reading the frame payload: http2: frame too large",
		"http2: response header list larger", "http2: invalid ", "malformed response from server: ")
	return ok
}

// classifyQUIC reads the errors of an HTTP/3 origin (RFC 9114 section 8.1, RFC
// 9000 section 20).
func classifyQUIC(f Fault) (Fault, bool) {
	var h3 *http3.Error
	var reset *quic.StatelessResetError
	var idle *quic.IdleTimeoutError
	var handshake *quic.HandshakeTimeoutError
	var transport *quic.TransportError
	var app *quic.ApplicationError
	switch {
	case errors.As(f.Err, &h3):
		return f.http3(h3.ErrorCode), true
	case errors.As(f.Err, &reset):
		f.Cause = Reset
	case errors.As(f.Err, &handshake):
		f.Cause, f.Phase, f.Safety, f.Side = Timeout, PhaseDial, Unsent, SideNetwork
	case errors.As(f.Err, &idle):
		f.Cause, f.Side = Timeout, SideNetwork
	case errors.As(f.Err, &transport):
		return f.quicTransport(transport), true
	case errors.As(f.Err, &app):
		return f.http3(http3.ErrCode(app.ErrorCode)), true
	default:
		return f, false
	}
	return f, true
}

// quicTransport reads the errors of QUIC itself, of which TLS is a part.
func (f Fault) quicTransport(e *quic.TransportError) Fault {
	cause, isTLS := tlsCause(e)
	switch {
	case e.ErrorCode == quic.ConnectionRefused:
		f.Cause, f.Safety = Refused, Unprocessed
	case isTLS && cause != TLSHandshake:
		// This side refused the origin's certificate; a request comes later.
		f.Cause, f.Phase, f.Safety, f.Trip = cause, PhaseTLS, Unsent, true
	case e.ErrorCode.IsCryptoError():
		f.Cause = TLSHandshake
	default:
		f.Cause = Protocol
	}
	return f
}

func (f Fault) http3(code http3.ErrCode) Fault {
	switch code {
	case http3.ErrCodeRequestRejected:
		f.Cause, f.Weight, f.Safety = RefusedStream, 0, Unprocessed
	case http3.ErrCodeNoError:
		f.Cause, f.Weight = GoAway, 0
	case http3.ErrCodeExcessiveLoad:
		f.Cause, f.Weight = Overloaded, 0
	case http3.ErrCodeInternalError, http3.ErrCodeRequestCanceled, http3.ErrCodeRequestIncomplete:
		f.Cause = Reset
	default:
		f.Cause = Protocol
	}
	return f
}

// isProtocol recognises answers that are not HTTP. net/http gives most of them
// only a text.
func isProtocol(err error) bool {
	var proto textproto.ProtocolError
	if errors.As(err, &proto) || errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	msg := err.Error()
	for _, s := range []string{
		"malformed ", "server response headers exceeded", "server replied with more than",
		"transport connection broken", "invalid ", "chunk", "http: unexpected ", "too many 1xx",
		"line too long", "header too long", "bad Content-Length", "suspiciously long",
	} {
		if strings.Contains(msg, s) {
			return true
		}
	}
	return false
}

// isTooLarge recognises an answer of which the header is more than the operator allows
// (net/http's MaxResponseHeaderBytes, on HTTP/1 and HTTP/2).
func isTooLarge(err error) bool {
	_, ok := says(err, "net/http: server response headers exceeded", "http2: response header list larger")
	return ok
}

// isUnsendable recognises what net/http and quic-go say of a request that they do not
// put on the wire as it is: its trailer is none, its host no name (IDNA), its header
// more than the origin takes; or it asks for an upgrade, which HTTP/2 does not have. A
// client can make such requests, and no origin has a part in them.
func isUnsendable(err error) bool {
	if err == nil {
		return false
	}
	msg := err.Error()
	for _, from := range []string{"net/http: ", "http2: ", "http3: "} {
		if rest, ok := strings.CutPrefix(msg, from); ok {
			msg = rest
			break
		}
	}
	for _, s := range unsendable {
		if strings.HasPrefix(msg, s) {
			return true
		}
	}
	return false
}

// unsendable are the beginnings of the messages of net/http (Request.write,
// Transport.roundTrip), of http2's httpcommon.EncodeHeaders and of http3's
// requestWriter. What those say of answers begins otherwise.
var unsendable = [...]string{
	"invalid header field", "invalid trailer field", "invalid Trailer key", "invalid method",
	"invalid request :", "invalid :protocol header", "invalid Host header", "idna: ",
	"invalid HTTP header", "invalid HTTP trailer", "invalid http header field",
	"invalid Upgrade request header", "invalid Connection request header", "invalid Transfer-Encoding request header",
	"request header list larger than peer's advertised limit",
	"can't write control character in Request.URL", "server didn't enable Extended CONNECT",
}

// isServerClosedIdle recognises net/http's errServerClosedIdle, which is not
// exported.
func isServerClosedIdle(err error) bool {
	_, ok := says(err, "http: server closed idle connection")
	return ok
}

// ClassifyStatus turns a gateway error that the origin answered into a Fault: a
// 502 or 504, or a 503 which says nothing about when to come back, counts
// against it; a 503 with Retry-After and a 429 are push-back, which is a matter
// for limits and not for health.
func ClassifyStatus(status int, retryAfter time.Duration, ev Evidence) Fault {
	f := Fault{
		Cause: Status, Phase: PhaseHeaders, Side: SideUpstream, Weight: 1,
		Safety: IfIdempotent, Reused: ev.Reused, Idle: ev.Idle, Sent: -1, Received: -1,
		StatusCode: status, RetryAfter: retryAfter,
	}
	if ev.Conn != nil {
		f.Sent = ev.Conn.Sent() - ev.SentBefore
		f.Received = ev.Conn.Received() - ev.ReceivedBefore
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable && retryAfter > 0 {
		f.Cause, f.Weight = Overloaded, 0
	}
	return f
}
