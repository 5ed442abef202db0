// SPDX-License-Identifier: Apache-2.0

// Faults of the resolver, asked of a real one that misbehaves.

package health_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/resetguard/caddy-resetguard/health"
)

var dnsCases = []faultCase{
	{
		"dns_nx", "NXDOMAIN", resolve(dnsmessage.RCodeNameError, net.DNSError{IsNotFound: true}),
		want{cause: health.DNS, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Unsent},
	},
	{
		"dns_fail", "SERVFAIL", resolve(dnsmessage.RCodeServerFailure, net.DNSError{IsTemporary: true}),
		want{cause: health.DNS, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Unsent},
	},
	{
		"dns_fail", "REFUSED", resolve(dnsmessage.RCodeRefused, net.DNSError{}),
		want{cause: health.DNS, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Unsent},
	},
	{
		"dns_fail", "no answer", resolve(noAnswer, net.DNSError{IsTimeout: true}),
		want{cause: health.DNS, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Unsent},
	},
}

func TestClassifyDNS(t *testing.T) { runCases(t, dnsCases) }

// noAnswer makes the resolver say nothing at all.
const noAnswer = dnsmessage.RCode(0xffff)

// resolve dials a name of which the resolver says code. The flags tell whether
// Go saw what was meant.
func resolve(code dnsmessage.RCode, flags net.DNSError) func(t *testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		server := startResolver(t, code)
		c := newClient(t, nil)
		c.dialer.Resolver = &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "udp", server)
			},
		}
		if code == noAnswer {
			c.dialer.Timeout = 50 * time.Millisecond
		}
		f := c.do(t, send{}.request(t, "http://origin.test.:80")).fault(t)
		if got := dnsError(t, f.Err); got.IsNotFound != flags.IsNotFound || got.IsTimeout != flags.IsTimeout ||
			flags.IsTemporary && !got.IsTemporary {
			t.Errorf("got %+v, want not found %v, time-out %v, temporary %v",
				*got, flags.IsNotFound, flags.IsTimeout, flags.IsTemporary)
		}
		return f
	}
}

func dnsError(t *testing.T, err error) *net.DNSError {
	t.Helper()
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		t.Fatalf("got %v, want an error of the resolver", err)
	}
	return dns
}

func startResolver(t *testing.T, code dnsmessage.RCode) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	go func() {
		defer close(done)
		serveDNS(pc, code)
	}()
	return pc.LocalAddr().String()
}

func serveDNS(pc net.PacketConn, code dnsmessage.RCode) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if code == noAnswer || m.Unpack(buf[:n]) != nil {
			continue
		}
		m.Response, m.RCode = true, code
		m.Additionals = nil
		if answer, err := m.Pack(); err == nil {
			_, _ = pc.WriteTo(answer, from)
		}
	}
}
