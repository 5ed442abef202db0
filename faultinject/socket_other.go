// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// This file stands in for what only Linux offers.

package faultinject

import (
	"net"
	"time"
)

// heldPort does nothing here: while the origin refuses, its port is free and
// another process could be given it.
type heldPort struct{}

func holdPort(addr *net.TCPAddr) (*heldPort, *net.TCPAddr, error) { return &heldPort{}, addr, nil }

func (*heldPort) release() {}

// awaitSent gives the kernel a moment to deliver what was sent, since a reset
// throws away what is still queued.
func awaitSent(net.Conn) { time.Sleep(5 * time.Millisecond) }
