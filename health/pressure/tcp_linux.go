// SPDX-License-Identifier: Apache-2.0

// What the kernel counts about TCP.

package pressure

import (
	"time"
)

// sockstat reads how many sockets there are, and their memory.
type sockstat struct {
	host   *host
	files  []*procFile // sockstat, ip_local_port_range, tcp_mem
	errors uint64
	failed time.Time // connecting failed for want of an address or a port
}

func openSockstat(h *host) (reader, error) {
	files, err := openAll(h.root, "proc/self/net/sockstat", "proc/sys/net/ipv4/ip_local_port_range", "proc/sys/net/ipv4/tcp_mem")
	if err != nil {
		return nil, err
	}
	return &sockstat{host: h, files: files, errors: h.portErrors.Load()}, nil
}

func (s *sockstat) read(v *values, now time.Time) error {
	text, err := s.files[0].read()
	if err != nil {
		return err
	}
	line, ok := lineOf(text, "TCP:")
	if !ok {
		return s.files[0].invalid()
	}
	inuse, _ := named(line, "inuse")
	waiting, _ := named(line, "tw")
	pages, _ := named(line, "mem")
	if n := s.host.portErrors.Load(); n != s.errors {
		s.errors, s.failed = n, now
	}
	if v[0], err = s.ports(inuse+waiting, now); err != nil {
		return err
	}
	v[1], err = s.memory(pages)
	return err
}

// ports compares the sockets with the ports there are. Neither the number alone
// is a shortage, since a server's sockets need no ephemeral ports, nor the error
// alone, which an origin on ::1 gives where there is no IPv6: only both.
func (s *sockstat) ports(sockets uint64, now time.Time) (float64, error) {
	if s.failed.IsZero() || now.Sub(s.failed) > eventHold {
		return 0, nil
	}
	text, err := s.files[1].read()
	if err != nil {
		return 0, err
	}
	first, rest := nextField(text)
	low, ok := parseUint(first)
	last, _ := nextField(rest)
	high, ok2 := parseUint(last)
	if !ok || !ok2 || high < low {
		return 0, s.files[1].invalid()
	}
	return min(1, float64(sockets)/float64(high-low+1)), nil
}

// memory compares the memory of TCP with the most that it may have.
func (s *sockstat) memory(pages uint64) (float64, error) {
	text, err := s.files[2].read()
	if err != nil {
		return 0, err
	}
	_, rest := nextField(text)
	_, rest = nextField(rest)
	third, _ := nextField(rest)
	limit, ok := parseUint(third)
	if !ok || limit == 0 {
		return 0, s.files[2].invalid()
	}
	return float64(pages) / float64(limit), nil
}

func (s *sockstat) close() { closeAll(s.files) }

// netstat reads what the kernel had to drop since it was last read.
type netstat struct {
	host   *host
	file   *procFile
	before [2]uint64
	at     time.Time
}

var netstatNames = []string{"ListenDrops", "TCPAbortOnMemory"}

func openNetstat(h *host) (reader, error) {
	f, err := openProc(h.root, "proc/self/net/netstat")
	if err != nil {
		return nil, err
	}
	return &netstat{host: h, file: f}, nil
}

func (n *netstat) read(v *values, now time.Time) error {
	text, err := n.file.read()
	if err != nil {
		return err
	}
	var counters [2]uint64
	if !paired(text, "TcpExt:", netstatNames, counters[:]) {
		return n.file.invalid()
	}
	v[0], v[1] = 0, 0
	if past := now.Sub(n.at).Seconds(); !n.at.IsZero() && past > 0 {
		v[0] = n.ours(now) * float64(counters[0]-min(counters[0], n.before[0])) / past
		v[1] = float64(counters[1]-min(counters[1], n.before[1])) / past
	}
	n.before, n.at = counters, now
	return nil
}

// queuedWithin is how long ago one of our queues must have been seen to fill for
// drops to be ours.
const queuedWithin = 3 * time.Second

// ours is 0 if the drops were other programs': the kernel counts those of all
// listeners together. Without a watched listener they may always be ours.
func (n *netstat) ours(now time.Time) float64 {
	if n.host.listeners.any() && (n.host.queued.IsZero() || now.Sub(n.host.queued) > queuedWithin) {
		return 0
	}
	return 1
}

func (n *netstat) close() { n.file.close() }
