// SPDX-License-Identifier: Apache-2.0

// From the last fault of a request to what its client is told: status, wait,
// side and plain words. Nothing here carries an address, a name or an error's
// text: the client learns whose fault it is, the operator's log says why.

package diagnose

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

const (
	// defaultRetryAfter is asked for when the origin named no time: long
	// enough for a queue to drain or a probe to find an origin again, short
	// enough that a visitor still waits.
	defaultRetryAfter = 5 * time.Second
	// maxRetryAfter keeps one origin's wish from sending everybody away for
	// an hour, when another origin may be back in seconds.
	maxRetryAfter = 60 * time.Second
)

// Verdict is what a client is told about a request that failed.
type Verdict struct {
	Status int // 502, 503 or 504
	// RetryAfter is in whole seconds; 0 means that the answer has no
	// Retry-After field.
	RetryAfter time.Duration
	// ProxyStatusError is an error type of RFC 9209 section 2.3, or empty.
	ProxyStatusError string
	// ReceivedStatus is what the origin itself answered (RFC 9209 section
	// 2.1.4); 0 if it did not answer.
	ReceivedStatus int
	Side           health.Side
	Title, Detail  string // plain words; Title without a full stop
}

// Judge makes the verdict on a request's last fault.
func Judge(f health.Fault) Verdict {
	v := Verdict{Status: status(f), ProxyStatusError: proxyError(f), Side: Side(f)}
	v.Title, v.Detail = words(f, v.Status)
	if v.Status == http.StatusServiceUnavailable {
		v.RetryAfter = retryAfter(f.RetryAfter)
	}
	if f.StatusCode >= 100 && f.StatusCode <= 599 {
		v.ReceivedStatus = f.StatusCode
	}
	return v
}

// status chooses among the three gateway statuses of RFC 9110 section 15.6. A
// gateway error that the origin itself answered keeps its number.
func status(f health.Fault) int {
	switch f.Cause {
	case health.Timeout:
		return http.StatusGatewayTimeout
	case health.DNS:
		if isTimeout(f.Err) {
			return http.StatusGatewayTimeout
		}
	case health.Overloaded, health.NoUpstream,
		health.LocalPorts, health.LocalFiles, health.LocalMemory:
		return http.StatusServiceUnavailable
	case health.Status:
		if f.StatusCode == http.StatusServiceUnavailable || f.StatusCode == http.StatusGatewayTimeout {
			return f.StatusCode
		}
	}
	return http.StatusBadGateway
}

// retryAfter is asked of the client with a 503 only. RFC 9110 section 10.2.3
// gives the field a meaning there: the lack passes, and its end can be guessed.
// With a 502 or 504 it cannot (nobody knows when somebody starts a refused
// application again), and a guess would only bring all clients back at one time.
func retryAfter(asked time.Duration) time.Duration {
	if asked <= 0 {
		return defaultRetryAfter
	}
	// The field counts whole seconds; rounding down would come too early.
	up := min(asked, maxRetryAfter) + time.Second - 1
	return up.Truncate(time.Second)
}

// proxyError finds the error type of RFC 9209 section 2.3. Where the fault's
// kind alone does not settle it, the phase does.
//
//	cause                    dial, tls            stale, write, wait      headers, body
//	timeout                  connection_timeout   see timeoutError        connection_read_timeout
//	reset, closed, goaway    connection_terminated  connection_terminated  http_response_incomplete
//	unknown                  destination_unavailable  connection_terminated  http_response_incomplete
func proxyError(f health.Fault) string {
	if f.Cause == health.Overloaded && f.Side == health.SideProxy {
		return "proxy_internal_error" // refused to spare this host
	}
	switch f.Cause {
	case health.DNS:
		if isTimeout(f.Err) {
			return "dns_timeout"
		}
		return "dns_error"
	case health.Refused:
		return "connection_refused"
	case health.Unreachable:
		return "destination_ip_unroutable"
	case health.TLSExpired, health.TLSUntrusted, health.TLSName:
		return "tls_certificate_error"
	case health.TLSVersion, health.TLSHandshake:
		return tlsError(f.Err)
	case health.Protocol:
		return "http_protocol_error"
	case health.RefusedStream, health.Overloaded, health.Status, health.NoUpstream:
		return "destination_unavailable"
	case health.Mismatch:
		return "http_response_incomplete"
	case health.LocalPorts:
		// Ports are what limits the connections to this one next hop.
		return "connection_limit_reached"
	case health.LocalFiles, health.LocalMemory:
		return "proxy_internal_error"
	case health.ClientGone:
		return "" // no type speaks of the client's side, and nobody reads it
	case health.Timeout:
		return timeoutError(f.Phase)
	default:
		return brokenError(f)
	}
}

func timeoutError(p health.Phase) string {
	switch p {
	case health.PhaseDial, health.PhaseTLS:
		return "connection_timeout"
	case health.PhaseWrite:
		return "connection_write_timeout"
	case health.PhaseHeaders, health.PhaseBody:
		return "connection_read_timeout" // it came, and then no more of it
	default:
		return "http_response_timeout"
	}
}

// brokenError is for connections that ended: reset, closed, goaway, unknown.
func brokenError(f health.Fault) string {
	switch f.Phase {
	case health.PhaseHeaders, health.PhaseBody:
		return "http_response_incomplete"
	case health.PhaseStale, health.PhaseWrite, health.PhaseWait:
		return "connection_terminated"
	}
	switch f.Cause {
	case health.Reset, health.Closed, health.GoAway:
		return "connection_terminated"
	}
	return "destination_unavailable"
}

func tlsError(err error) string {
	if isAlert(err) {
		return "tls_alert_received"
	}
	return "tls_protocol_error"
}

// isAlert tells whether the origin ended the handshake itself. crypto/tls marks
// that by nothing but the operation's name: its alert type is not exported, and
// tls.AlertError does not match it.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Side is the fault's own side, or the cause's usual one if it names none. A
// client that leaves after a long wait was not at fault: the origin was silent.
func Side(f health.Fault) health.Side {
	switch {
	case Silent(f):
		return health.SideUpstream
	case f.Side != "":
		return f.Side
	}
	switch f.Cause {
	case health.ClientGone:
		return health.SideClient
	case health.DNS, health.LocalPorts, health.LocalFiles, health.LocalMemory:
		return health.SideProxy
	case health.Unreachable:
		return health.SideNetwork
	default:
		return health.SideUpstream
	}
}
