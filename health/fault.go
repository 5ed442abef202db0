// SPDX-License-Identifier: Apache-2.0

// Package health says what is known about origins. Its first half turns what
// happened to one attempt (Go's error, what the connection saw, what the client
// did) into a Fault: cause, phase, side, health weight and retry safety.
package health

import "time"

// Cause is what went wrong, in one word that is the same in logs, placeholders,
// metrics and documentation.
type Cause string

// The causes of faults.
const (
	DNS           Cause = "dns"            // the origin's name did not resolve
	Refused       Cause = "refused"        // nothing listens at the origin's address
	Unreachable   Cause = "unreachable"    // no route to the origin
	Timeout       Cause = "timeout"        // the origin did not connect or answer in time
	Reset         Cause = "reset"          // a TCP reset (or QUIC's equal) ended the connection
	Closed        Cause = "closed"         // the connection ended in good order, but too early
	TLSExpired    Cause = "tls_expired"    // certificate expired, or not yet valid
	TLSUntrusted  Cause = "tls_untrusted"  // certificate from an authority that is not trusted
	TLSName       Cause = "tls_name"       // certificate for another name
	TLSVersion    Cause = "tls_version"    // no TLS version or cipher in common
	TLSHandshake  Cause = "tls_handshake"  // any other failure of the handshake
	Protocol      Cause = "protocol"       // the answer is not HTTP, or breaks its rules
	GoAway        Cause = "goaway"         // HTTP/2 GOAWAY: the origin is shutting the connection down
	RefusedStream Cause = "refused_stream" // HTTP/2 REFUSED_STREAM, HTTP/3 H3_REQUEST_REJECTED
	Overloaded    Cause = "overloaded"     // the origin says that it has too much to do
	Status        Cause = "status"         // a gateway error (502, 503, 504) that the origin itself answered
	Mismatch      Cause = "mismatch"       // asked for the rest of another origin's answer, it has something else
	ClientGone    Cause = "client_gone"    // the client broke off
	LocalPorts    Cause = "local_ports"    // this host has no ephemeral port left
	LocalFiles    Cause = "local_files"    // this host or process has no file descriptor left
	LocalMemory   Cause = "local_memory"   // this host has no memory for sockets left
	NoUpstream    Cause = "no_upstream"    // there was no available origin to try
	Unknown       Cause = "unknown"        // an error that the guard does not know
)

// Phase is how far an attempt had come.
type Phase string

// The phases of an attempt, in their order.
const (
	PhaseDial    Phase = "dial"    // connecting: no byte of the request was sent
	PhaseTLS     Phase = "tls"     // TLS handshake: no byte of the request was sent
	PhaseStale   Phase = "stale"   // on a reused connection, before any byte of an answer
	PhaseWrite   Phase = "write"   // sending the request on a fresh connection
	PhaseWait    Phase = "wait"    // sent, and no byte of an answer came
	PhaseHeaders Phase = "headers" // within the response's header, or judged by it
	PhaseBody    Phase = "body"    // within the response's body
)

// Side is who is at fault.
type Side string

// The sides of a fault.
const (
	SideClient   Side = "client"   // the visitor, or the network on the visitor's side
	SideProxy    Side = "proxy"    // this host, its configuration or its resolver
	SideUpstream Side = "upstream" // the origin
	SideNetwork  Side = "network"  // the path between this host and the origin
)

// Safety is which requests may be sent again after a fault. Its zero value
// allows none.
type Safety uint8

// The degrees of safety, from none to all.
const (
	// Never: sending again would not help, or nobody waits for the answer.
	Never Safety = iota
	// IfIdempotent: the origin may have acted (RFC 9110 section 9.2.2).
	IfIdempotent
	// Unprocessed: the origin has promised not to have acted on the request,
	// of which bytes were sent (RFC 9113 section 8.7).
	Unprocessed
	// Unsent: not one byte of the request was sent.
	Unsent
)

// String gives the word used in logs.
func (s Safety) String() string {
	return [...]string{"never", "if_idempotent", "unprocessed", "unsent"}[s]
}

// Fault is one attempt's failure, classified. It is a value: copying is cheap
// and shares nothing but Err.
type Fault struct {
	Cause Cause
	Phase Phase
	Side  Side

	// Weight is how heavily the fault counts against the origin's health, from
	// 0 (not at all) to 1 (HEALTH.md section 3.3).
	Weight float64
	// Trip tells that the fault is deterministic: the next attempt at this
	// origin would fail in the same way until somebody mends it.
	Trip bool
	// Provoked tells that the client may have brought the fault about, by its timing:
	// only so many of each client count.
	Provoked bool
	// Safety is which requests may be sent again.
	Safety Safety

	Reused   bool          // the attempt went out on a kept-alive connection
	Idle     time.Duration // how long that connection had been idle; 0 if unknown
	Sent     int64         // bytes written since the attempt got its connection; -1 if unknown
	Received int64         // bytes read since then; -1 if unknown

	// Elapsed is how long the attempt had taken; 0 if unknown.
	Elapsed time.Duration

	// StatusCode is the origin's answer, when that is the fault; else 0.
	StatusCode int
	// RetryAfter is what the origin asked for in its answer; 0 if nothing.
	RetryAfter time.Duration

	// Err is the error as it came from the transport; nil for a status.
	Err error
}
