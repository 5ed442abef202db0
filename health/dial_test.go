// SPDX-License-Identifier: Apache-2.0

// Faults of the dial, on every system.

package health_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

var dialCases = []faultCase{
	{
		"connect_refused", "nothing listens",
		through(faultinject.Config{Fault: faultinject.Refuse}, send{}),
		want{cause: health.Refused, phases: at(health.PhaseDial), side: health.SideUpstream, weight: 1, safety: health.Unsent},
	},
	{
		"connect_refused", "POST to nobody",
		through(faultinject.Config{Fault: faultinject.Refuse}, send{upload: 10}),
		want{cause: health.Refused, phases: at(health.PhaseDial), side: health.SideUpstream, weight: 1, safety: health.Unsent},
	},
	{
		"connect_refused", "unix socket without a file", dialMissingSocket,
		want{cause: health.Refused, phases: at(health.PhaseDial), side: health.SideUpstream, weight: 1, safety: health.Unsent},
	},
	{
		"ephemeral_ports", "source address that this host does not have",
		// 192.0.2.0/24 is for documentation (RFC 5737): no host has it.
		through(faultinject.Config{}, send{tune: func(c *client) {
			c.dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
		}}),
		want{cause: health.LocalPorts, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
}

func dialMissingSocket(t *testing.T) health.Fault {
	c := newClient(t, nil)
	_, err := c.dial(t.Context(), "unix", filepath.Join(t.TempDir(), "missing.sock"))
	if err == nil {
		t.Fatal("dialled a socket that does not exist")
	}
	return health.Classify(err, health.Evidence{Dialing: true, Watched: true})
}

func TestClassifyDial(t *testing.T) { runCases(t, dialCases) }
