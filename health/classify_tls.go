// SPDX-License-Identifier: Apache-2.0

// Faults of TLS to the origin.

package health

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
)

// classifyTLS covers a handshake that did not complete: nothing of the request
// was sent, so any request may go elsewhere.
func classifyTLS(f Fault) Fault {
	if cause, ok := tlsCause(f.Err); ok {
		f.Cause = cause
		f.Trip = cause != TLSHandshake || isPlaintext(f.Err) || isCertificateAlert(f.Err)
		return f
	}
	switch {
	case isTimeout(f.Err):
		f.Cause = Timeout
	case isReset(f.Err):
		f.Cause = Reset
	case endOf(f, Evidence{}) == EndFIN:
		f.Cause = Closed
	default:
		f.Cause = TLSHandshake
	}
	return f
}

// tlsCause recognises what crypto/tls and crypto/x509 say. Certificates,
// versions and plain text are deterministic: they stay until somebody mends
// them.
func tlsCause(err error) (Cause, bool) {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	switch {
	case err == nil:
		return "", false
	case errors.As(err, &invalid):
		if invalid.Reason == x509.Expired {
			return TLSExpired, true
		}
		return TLSUntrusted, true
	case errors.As(err, &name):
		return TLSName, true
	case errors.As(err, &unknown), errors.As(err, &verify):
		return TLSUntrusted, true
	case isPlaintext(err):
		return TLSHandshake, true
	case isRemoteAlert(err), strings.HasPrefix(err.Error(), "tls: "):
		return alertCause(err), true
	}
	return "", false
}

// isPlaintext tells that the origin answered without TLS.
func isPlaintext(err error) bool {
	var rec tls.RecordHeaderError
	return errors.As(err, &rec)
}

// isRemoteAlert tells that the origin sent an alert. crypto/tls wraps it in an
// OpError; tls.AlertError does not match it.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isCertificateAlert tells that the origin does not accept this side's
// certificate, or misses one.
func isCertificateAlert(err error) bool {
	return isRemoteAlert(err) &&
		(strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "access denied"))
}

// alertCause tells a lack of common ground from other failures by the text:
// crypto/tls exports no values for either.
func alertCause(err error) Cause {
	msg := err.Error()
	for _, s := range []string{
		"protocol version not supported", "unsupported protocol version",
		"selected unsupported protocol version", "handshake failure",
		"no cipher suite supported", "unsupported version",
	} {
		if strings.Contains(msg, s) {
			return TLSVersion
		}
	}
	return TLSHandshake
}

// OfName is the fault of a handshake in which the client had a say in the
// server's name. Which certificate an origin shows, and whether it goes on at
// all, depends on that: what is wrong with one name says nothing of the others.
// A certificate that has expired says a little, as an origin's often expire
// together. An origin that speaks no TLS does so by any name.
func (f Fault) OfName() Fault {
	switch f.Cause {
	case TLSExpired:
		f.Weight, f.Trip = min(f.Weight, 0.25), false
	case TLSName, TLSVersion, TLSUntrusted:
		f.Weight, f.Trip = 0, false
	case TLSHandshake:
		if !isPlaintext(f.Err) {
			f.Weight, f.Trip = 0, false
		}
	}
	return f
}
