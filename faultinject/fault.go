// SPDX-License-Identifier: Apache-2.0

// Package faultinject contains origins that misbehave on purpose: [Origin] for
// tests and the demo, and the Caddy handler "fault" for game days. This file
// names the faults; the same word is used in Go, JSON and the Caddyfile.
package faultinject

// Fault is one way to misbehave.
type Fault string

// The faults. "Reset" is a TCP RST, "close" an orderly FIN, "stall" silence on
// an open connection until [Config].StallFor has passed.
const (
	None Fault = "none" // answers well

	// The listener and new connections.
	Refuse        Fault = "refuse"          // nothing listens: connections are refused, open ones are closed
	ResetOnAccept Fault = "reset_on_accept" // reset as soon as accepted
	CloseOnAccept Fault = "close_on_accept" // closed as soon as accepted
	StallOnAccept Fault = "stall_on_accept" // accepted and never read

	// While the request arrives, and on connections that are used again.
	ResetAfterHeader Fault = "reset_after_header" // reset when the request's header was read, before its body
	ResetInUpload    Fault = "reset_in_upload"    // reset after a part of the request's body; requests without one are served
	CloseInUpload    Fault = "close_in_upload"    // closed after a part of the request's body
	ResetReused      Fault = "reset_reused"       // first request served, reset when the next one arrives
	CloseReused      Fault = "close_reused"       // first request served, closed when the next one arrives
	ResetIdle        Fault = "reset_idle"         // reset when idle for [Config].IdleFor after a response
	CloseIdle        Fault = "close_idle"         // closed when idle for [Config].IdleFor after a response

	// After the whole request.
	ResetAfterRequest  Fault = "reset_after_request"  // reset instead of an answer
	CloseAfterRequest  Fault = "close_after_request"  // closed instead of an answer
	ResetInHeaders     Fault = "reset_in_headers"     // reset after half of the response's header
	CloseInHeaders     Fault = "close_in_headers"     // closed after half of the response's header
	ResetInBody        Fault = "reset_in_body"        // reset after a part of the response's body
	CloseInBody        Fault = "close_in_body"        // closed after a part of the response's body
	Garbage            Fault = "garbage"              // answers with something that is not HTTP
	BadHeader          Fault = "bad_header"           // answers with a malformed header field
	StallBeforeHeaders Fault = "stall_before_headers" // silence instead of an answer
	StallInHeaders     Fault = "stall_in_headers"     // silence after half of the response's header
	StallInBody        Fault = "stall_in_body"        // silence after a part of the response's body
	Status             Fault = "status"               // answers with the configured status
	Status429          Fault = "status_429"           // answers 429 Too Many Requests
	Status500          Fault = "status_500"           // answers 500 Internal Server Error
	Status502          Fault = "status_502"           // answers 502 Bad Gateway
	Status503          Fault = "status_503"           // answers 503 Service Unavailable
	Status504          Fault = "status_504"           // answers 504 Gateway Timeout

	// HTTP/2 only.
	GoAway              Fault = "goaway"                // GOAWAY NO_ERROR whose last stream is the one before: this one was not processed
	GoAwayCalm          Fault = "goaway_calm"           // GOAWAY ENHANCE_YOUR_CALM that includes this stream, and close
	RefusedStream       Fault = "refused_stream"        // RST_STREAM REFUSED_STREAM: not processed
	StreamCancel        Fault = "stream_cancel"         // RST_STREAM CANCEL instead of an answer
	StreamInternalError Fault = "stream_internal_error" // RST_STREAM INTERNAL_ERROR instead of an answer
	StreamProtocolError Fault = "stream_protocol_error" // RST_STREAM PROTOCOL_ERROR instead of an answer
	StreamCalm          Fault = "stream_calm"           // RST_STREAM ENHANCE_YOUR_CALM instead of an answer
	StreamResetInBody   Fault = "stream_reset_in_body"  // RST_STREAM INTERNAL_ERROR after a part of the response's body
	StreamCancelInBody  Fault = "stream_cancel_in_body" // RST_STREAM CANCEL after a part of the response's body
	StreamCalmInBody    Fault = "stream_calm_in_body"   // RST_STREAM ENHANCE_YOUR_CALM after a part of the response's body
	GoAwayInBody        Fault = "goaway_in_body"        // GOAWAY NO_ERROR that includes this stream, in the middle of its body, which goes on
	GoAwayCalmInBody    Fault = "goaway_calm_in_body"   // GOAWAY ENHANCE_YOUR_CALM that includes this stream, after a part of its body, and close
	H2ConnLost          Fault = "h2_conn_lost"          // TCP reset of the connection with all its streams

	// TLS only.
	TLSExpired    Fault = "tls_expired"     // the certificate has expired
	TLSWrongName  Fault = "tls_wrong_name"  // the certificate is for another name
	TLSUntrusted  Fault = "tls_untrusted"   // the certificate is from an unknown authority
	TLSVersion    Fault = "tls_version"     // the server speaks TLS 1.0 only
	TLSReset      Fault = "tls_reset"       // reset when the ClientHello was read
	TLSClose      Fault = "tls_close"       // closed when the ClientHello was read
	TLSStall      Fault = "tls_stall"       // silence when the ClientHello was read
	TLSPlaintext  Fault = "tls_plaintext"   // plain HTTP on the TLS port
	TLSAlert      Fault = "tls_alert"       // the alert handshake_failure
	TLSClientCert Fault = "tls_client_cert" // requires a client certificate (TLS 1.3: refused at the first read)
)

// Faults lists all faults in the order of their documentation.
func Faults() []Fault {
	all := make([]Fault, 0, len(catalogue))
	for _, e := range catalogue {
		all = append(all, e.fault)
	}
	return all
}
