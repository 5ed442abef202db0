// SPDX-License-Identifier: Apache-2.0

// This file is what a test says about the origin it wants, its defaults and
// its rules.

package faultinject

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Protocol is what an [Origin] speaks.
type Protocol string

// The protocols. The two TLS ones offer exactly one protocol in ALPN.
const (
	H1    Protocol = "h1"     // HTTP/1.1 without TLS
	H1TLS Protocol = "h1+tls" // HTTP/1.1 over TLS
	H2    Protocol = "h2"     // HTTP/2 over TLS
	H2C   Protocol = "h2c"    // HTTP/2 without TLS, by prior knowledge
)

func (p Protocol) tls() bool { return p == H1TLS || p == H2 }
func (p Protocol) h2() bool  { return p == H2 || p == H2C }

func (p Protocol) valid() bool { return p == H1 || p.tls() || p.h2() }

// The defaults of a [Config].
const (
	DefaultStallFor = 30 * time.Second
	DefaultIdleFor  = 50 * time.Millisecond
)

// Config describes an [Origin]. The zero value is a faultless HTTP/1.1 server
// on a free port of 127.0.0.1.
type Config struct {
	// What answers carry in their X-Origin header.
	Name string
	// What to speak (default H1).
	Protocol Protocol
	// Where to listen (default "127.0.0.1:0").
	Listen string

	// What goes wrong (default None).
	Fault Fault
	// How often, from 0 to 1 (default 1). For "never", set Fault to None. The
	// dice are cast once per connection for faults on accept and in the TLS
	// handshake, and once per request for all others.
	Probability float64
	// The start of the sequence of throws; the same seed gives the same sequence.
	Seed uint64
	// Bytes of a body that pass before a fault in it (default: half of them,
	// and one byte of a request body whose length is not declared). Faults in
	// a response's body always keep at least one byte back; an answer that has
	// no body is broken off after its header.
	After int64
	// How long a stall lasts before the connection (in HTTP/2: the stream) is
	// closed (default 30s).
	StallFor time.Duration
	// How long a connection is idle before ResetIdle and CloseIdle break it
	// (default 50ms).
	IdleFor time.Duration
	// The status code of the fault Status.
	Status int
	// The Retry-After header of status faults, rounded up to seconds (default: none).
	RetryAfter time.Duration

	// Makes the normal answers, instead of the default described at [Origin].
	// It sees the request's body whole, up to 16 MiB, and its answer is kept in
	// memory, up to 64 MiB, before the first byte is sent. The request's context
	// ends with the connection, at the latest with [Origin.Close].
	Handler http.Handler
	// Which content /bytes/N has; see [VersionBytes].
	Version uint64
	// The ETag of /bytes/N, with its quotes (default: none).
	ETag string
	// The Last-Modified date of /bytes/N (default: none).
	LastModified time.Time
	// Answers range requests for /bytes/N with the whole.
	NoRanges bool
}

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	if c.Protocol == "" {
		c.Protocol = H1
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Fault == "" {
		c.Fault = None
	}
	if c.Probability == 0 {
		c.Probability = 1
	}
	if c.StallFor == 0 {
		c.StallFor = DefaultStallFor
	}
	if c.IdleFor == 0 {
		c.IdleFor = DefaultIdleFor
	}
	return c
}

// validate checks all but Fault and Probability, which may change later.
func (c Config) validate() error {
	switch {
	case !c.Protocol.valid():
		return fmt.Errorf("protocol %q is unknown: use %s, %s, %s or %s", c.Protocol, H1, H1TLS, H2, H2C)
	case c.After < 0:
		return fmt.Errorf("after is %d bytes: use 0 for half of the body, or more", c.After)
	case c.StallFor < 0 || c.IdleFor < 0 || c.RetryAfter < 0:
		return fmt.Errorf("a duration is negative (stall for %v, idle for %v, retry after %v): use 0 for the default",
			c.StallFor, c.IdleFor, c.RetryAfter)
	case strings.ContainsAny(c.Name+c.ETag, "\r\n"):
		return fmt.Errorf("name %q or ETag %q contains a line break: both are sent as header fields", c.Name, c.ETag)
	}
	return nil
}

// check finds the description of a fault and says whether this origin can have it.
func (c Config) check(f Fault, probability float64) (entry, error) {
	e, known := lookup(f)
	switch {
	case !known:
		return e, fmt.Errorf("fault %q is unknown: use one of %s", f, joined(Faults()))
	case e.in == tlsOnly && !c.Protocol.tls():
		return e, fmt.Errorf("fault %q needs TLS and the origin speaks %s: use %s or %s", f, c.Protocol, H1TLS, H2)
	case e.in == h2Only && !c.Protocol.h2():
		return e, fmt.Errorf("fault %q needs HTTP/2 and the origin speaks %s: use %s or %s", f, c.Protocol, H2, H2C)
	case !(probability >= 0 && probability <= 1): // refuses NaN, too
		return e, fmt.Errorf("fault %q: probability %v is not between 0 and 1", f, probability)
	case f == Refuse && probability != 0 && probability != 1:
		// The kernel refuses connections without asking us.
		return e, fmt.Errorf("fault %q: probability %v cannot be had: nothing listens, or something does; use 0 or 1", f, probability)
	case f == Status:
		return e, checkStatus(c.Status)
	}
	return e, nil
}

// checkStatus allows what can be the final status of an answer.
func checkStatus(code int) error {
	if code < 200 || code > 599 {
		return fmt.Errorf("fault %q: status code %d cannot be sent: use 200 to 599", Status, code)
	}
	return nil
}

func joined(faults []Fault) string {
	words := make([]string, len(faults))
	for i, f := range faults {
		words[i] = string(f)
	}
	return strings.Join(words, ", ")
}
