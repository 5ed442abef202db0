// SPDX-License-Identifier: Apache-2.0

// Faults of names that clients choose.

package health

import (
	"crypto/tls"
	"errors"
	"testing"
)

func TestFaultOfANameThatTheClientChose(t *testing.T) {
	alert := errors.New("remote error: tls: unrecognized name")
	for _, c := range []struct {
		cause  Cause
		err    error
		weight float64
		trip   bool
	}{
		{TLSName, nil, 0, false},
		{TLSVersion, nil, 0, false},
		{TLSUntrusted, nil, 0, false},
		{TLSExpired, nil, 0.25, false},
		{TLSHandshake, alert, 0, false},
		{TLSHandshake, tls.RecordHeaderError{}, 1, true},
		{Reset, nil, 1, true},
	} {
		f := Fault{Cause: c.cause, Phase: PhaseTLS, Weight: 1, Trip: true, Err: c.err}.OfName()
		if f.Weight != c.weight || f.Trip != c.trip {
			t.Errorf("%s: %v: got weight %v, trip %t; want %v, %t", c.cause, c.err, f.Weight, f.Trip, c.weight, c.trip)
		}
	}
}
