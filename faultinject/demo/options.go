// SPDX-License-Identifier: Apache-2.0

// This file is what can be chosen about a run, its defaults and its rules.

package demo

import (
	"fmt"
	"slices"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

const (
	defaultRequests = 300
	quickRequests   = 60
	maxRequests     = 10_000

	// How long all faults together may take. A fault that runs out of its share
	// ends early, with fewer requests; ending takes up to clientTimeout for
	// each of the three ways.
	defaultLimit = 50 * time.Second
	quickLimit   = 8 * time.Second

	workers = 8 // requests at the same time, at the most

	// One request is begun in so long a time. With no pause between them the
	// machine would have no time to spare, and all latency be queueing.
	pace = 6 * time.Millisecond
)

// options describe a run.
type options struct {
	requests    int // for each fault and each way
	faults      []faultinject.Fault
	seed        uint64
	probability float64 // of the fault, at the one origin that has it
	limit       time.Duration
}

// The demo's own rows: a fault of the origin under other circumstances.
const (
	// An answer to a GET that breaks off after much of it has reached the client.
	resetInLargeBody faultinject.Fault = "reset_in_large_body"
	closeInLargeBody faultinject.Fault = "close_in_large_body"
)

// circumstances are those of a row: what the origin does, and how large its
// answers to GETs are.
type circumstances struct {
	fault faultinject.Fault
	size  int
	after int64
}

func circumstancesOf(f faultinject.Fault) circumstances {
	switch f {
	case resetInLargeBody:
		return circumstances{faultinject.ResetInBody, largeSize, largeSize / 2}
	case closeInLargeBody:
		return circumstances{faultinject.CloseInBody, largeSize, largeSize / 2}
	}
	return circumstances{f, answerSize, 0}
}

// defaultFaults are those that clients meet most, and one for each moment at
// which an origin can fail.
func defaultFaults(probability float64) []faultinject.Fault {
	faults := []faultinject.Fault{
		faultinject.None,
		faultinject.Refuse,
		faultinject.ResetOnAccept,
		faultinject.ResetAfterRequest,
		faultinject.CloseAfterRequest,
		faultinject.ResetInHeaders,
		faultinject.ResetInBody,
		resetInLargeBody,
		closeInLargeBody,
		faultinject.Garbage,
		faultinject.BadHeader,
		faultinject.StallBeforeHeaders,
		faultinject.ResetReused,
		faultinject.CloseReused,
		faultinject.Status503,
	}
	if probability < 1 { // an origin refuses all connections, or none
		faults = slices.DeleteFunc(faults, func(f faultinject.Fault) bool { return f == faultinject.Refuse })
	}
	return faults
}

// parseFaults turns names into faults; no names are the default.
func parseFaults(names []string, probability float64) ([]faultinject.Fault, error) {
	if len(names) == 0 {
		return defaultFaults(probability), nil
	}
	var faults []faultinject.Fault
	for _, name := range names {
		f := faultinject.Fault(name)
		if slices.Contains(faults, f) {
			return nil, fmt.Errorf("fault %q is named twice: name each once", name)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// validate checks all before anything is started.
func (o options) validate() error {
	if o.requests < 1 || o.requests > maxRequests {
		return fmt.Errorf("--requests %d cannot be sent: use 1 to %d", o.requests, maxRequests)
	}
	if !(o.probability > 0 && o.probability <= 1) { // refuses NaN, too
		return fmt.Errorf("--probability %v is no share of the requests: use more than 0, and 1 at the most", o.probability)
	}
	for _, f := range o.faults {
		if err := tryFault(circumstancesOf(f).fault, o.probability); err != nil {
			return fmt.Errorf("--faults: %w; the demo's origins speak HTTP/1.1 without TLS, and have no other options than --probability", err)
		}
	}
	return nil
}
