// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTLSFaults(t *testing.T) {
	reason := func(r x509.InvalidReason) func(error) bool {
		return func(err error) bool {
			var invalid x509.CertificateInvalidError
			return errors.As(err, &invalid) && invalid.Reason == r
		}
	}
	for _, row := range []struct {
		fault Fault
		is    func(error) bool
	}{
		{TLSExpired, reason(x509.Expired)},
		{TLSWrongName, func(err error) bool { return errors.As(err, new(x509.HostnameError)) }},
		{TLSUntrusted, func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{TLSVersion, saying("protocol version not supported")},
		{TLSReset, isReset},
		{TLSClose, isClosed},
		{TLSStall, isClosed},
		{TLSPlaintext, func(err error) bool {
			return errors.As(err, new(tls.RecordHeaderError)) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
		}},
		{TLSAlert, saying("remote error: tls: handshake failure")},
		// In TLS 1.3 the client learns it after its own handshake; net/http's
		// HTTP/2 keeps the reason to itself if that is before the first stream.
		{TLSClientCert, func(err error) bool { return saying("certificate required")(err) || isGone(err) }},
	} {
		for _, p := range []Protocol{H1TLS, H2} {
			t.Run(string(p)+"/"+string(row.fault), func(t *testing.T) {
				t.Parallel()
				o := start(t, Config{Protocol: p, Fault: row.fault, StallFor: 20 * time.Millisecond})
				c := client(t, o)
				if _, _, err := do(c, "GET", o.URL(), nil); err == nil || !row.is(err) {
					t.Errorf("got %v (%T)", err, errors.Unwrap(err))
				}
				if n := o.Requests(); n != 0 {
					t.Errorf("requests: got %d, want 0", n)
				}
				if err := o.SetFault(None, 1); err != nil {
					t.Fatal(err)
				}
				if _, _, err := do(c, "GET", o.URL(), nil); err != nil {
					t.Errorf("without the fault: got %v", err)
				}
			})
		}
	}
}

func TestCAPEM(t *testing.T) {
	o := start(t, Config{Protocol: H1TLS})
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(o.CAPEM()) || !pool.Equal(o.RootCAs()) {
		t.Error("CAPEM and RootCAs are not the same authority")
	}
}
