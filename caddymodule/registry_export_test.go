// SPDX-License-Identifier: Apache-2.0

// What tests from outside want to know of the registry.

package caddymodule

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/resetguard/caddy-resetguard/health/pressure"
	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// KnownUpstreamsForTest counts the upstreams that any pool remembers.
func KnownUpstreamsForTest() (n int) {
	r, err := acquireRegistry()
	if err != nil {
		return 0
	}
	defer func() { _ = releaseRegistry() }()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pools {
		n += p.health.Len()
	}
	return n
}

// OnlyInjectedPressureForTest makes the running configurations see no pressure
// but p: the machine that runs the tests may be short of much.
func OnlyInjectedPressureForTest(p float64) {
	c := pressure.DefaultConfig()
	for r := pressure.None + 1; r < pressure.Injected; r++ {
		c.Ignore = append(c.Ignore, r)
	}
	r := currentRegistry()
	if r == nil {
		return // nothing is guarded
	}
	h := r.host
	h.Use(c)
	h.Inject(p)
}

// OnlyPressureOfForTest makes the running configurations see no pressure but that
// of one resource, between these thresholds; those of an event do not matter.
func OnlyPressureOfForTest(only pressure.Resource, t pressure.Threshold) {
	c := pressure.DefaultConfig()
	c.Ignore, c.Thresholds[only] = nil, t
	for r := pressure.None + 1; r < pressure.Injected; r++ {
		if r != only {
			c.Ignore = append(c.Ignore, r)
		}
	}
	currentRegistry().host.Use(c)
}

// ListenersForTest finds the sockets that the running configurations' sites listen on.
func ListenersForTest() (all []syscall.RawConn) {
	r := currentRegistry()
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sites {
		for server := range s.app.servers {
			for _, ln := range server.Listeners() {
				if conn, err := pressure.RawConn(ln); err == nil {
					all = append(all, conn)
				}
			}
		}
	}
	return all
}

// PressureForTest is this host's pressure.
func PressureForTest() float64 { return currentRegistry().host.State().P }

// PlacesTakenForTest counts the requests that have a place at an upstream.
func PlacesTakenForTest() (n int) {
	r := currentRegistry()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pools {
		p.limiters.mu.Lock()
		for _, l := range p.limiters.byAddr {
			n += l.limiter.InFlight()
		}
		p.limiters.mu.Unlock()
	}
	return n
}

// MintForTest writes the cookie of a client that has proven itself at an address, of
// the tests' site.
func MintForTest(id uint64, addr string, first, issued time.Time) string {
	return mintForTest(id, addr, first, issued, false)
}

// MintForTLS is MintForTest over TLS.
func MintForTLS(id uint64, addr string, first, issued time.Time) string {
	return mintForTest(id, addr, first, issued, true)
}

func mintForTest(id uint64, addr string, first, issued time.Time, secure bool) string {
	currentRegistry().keys.await(20 * time.Second) // a start does not wait for long
	signer, err := ratelimit.NewSigner(*currentRegistry().keys.ring.Load(), ratelimit.MaxCookieLifetime)
	if err != nil {
		panic(err)
	}
	t := ratelimit.Token{ID: id, First: first, Issued: issued, Stage: ratelimit.Trusted}
	return signer.Mint(t, ratelimit.Place{Addr: netip.MustParseAddr(addr), Site: "127.0.0.1", Secure: secure})
}
