// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// What there is on systems other than Linux: the sources that they do not have
// are listed, so that an operator sees what is not looked at.

package pressure

func platformSources() []*source {
	return []*source{
		missing("psi_cpu", CPU),
		missing("psi_memory", MemoryStall, MemoryFull),
		missing("psi_io", IOStall),
		missing("cgroup_memory", Memory, MemoryLimit),
		missing("cgroup_cpu", Throttling),
		fileSource(),
		missing("conntrack", Conntrack),
		missing("sockstat", Ports, TCPMemory),
		missing("listeners", AcceptQueue),
		missing("netstat", ListenDrops, TCPAborts),
	}
}

// missing makes a source that this system does not have.
func missing(name string, feeds ...Resource) *source {
	return &source{name: name, feeds: feeds, open: func(*host) (reader, error) { return nil, errUnsupported }}
}

func acceptQueue(uintptr) float64 { return 0 }
