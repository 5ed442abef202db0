// SPDX-License-Identifier: Apache-2.0

// Package pressure tells how much this host and the origins can still take on.
//
// A Sampler reads what the kernel and the Go runtime know, four times a second,
// and makes one number of it: P, from 0 (nothing is short) to 1. Each resource
// counts between two thresholds, the worst one decides, and reading the result
// is one atomic load. A source that a system does not have is listed and left
// out; it is never an error.
//
// Origins say themselves how much they can take on: in ORCA headers (Report),
// with Retry-After (Origin) and through HAProxy's agent protocol (CheckAgent).
//
// This file names the resources.
package pressure

// Resource is something that can be short.
type Resource uint8

// The resources. Unless said otherwise their value is a share, from 0 to 1.
const (
	None         Resource = iota
	CPU                   // time in which some thread waited for a processor (PSI)
	Memory                // what neither Go nor the kernel can reclaim, of GOMEMLIMIT or the cgroup's limit
	MemoryLimit           // the same with Go's garbage: how near the kernel is to killing us
	MemoryStall           // time in which some thread waited for memory (PSI)
	MemoryFull            // time in which all threads waited for memory (PSI)
	IOStall               // time in which some thread waited for a disk (PSI)
	Files                 // open file descriptors of those allowed
	Conntrack             // the firewall's connection table
	Ports                 // sockets by ephemeral ports, while connecting fails for want of one
	AcceptQueue           // the fullest listener's queue of connections not yet accepted
	TCPMemory             // the kernel's memory for TCP
	SchedLatency          // seconds that 99 % of goroutines waited at most to run
	GC                    // processor time of garbage collection
	Throttling            // periods in which the cgroup's processor quota was used up

	// Events: their value is a number per second.

	ListenDrops // connections dropped because an accept queue was full
	TCPAborts   // connections reset for want of memory
	FileErrors  // accepting, dialling or opening failed for want of file descriptors

	Injected // set by Inject

	resources
)

var resourceNames = [resources]string{
	"none", "cpu", "memory", "memory_limit", "memory_stall", "memory_full", "io_stall",
	"files", "conntrack", "ports", "accept_queue", "tcp_memory", "sched_latency", "gc", "throttling",
	"listen_drops", "tcp_aborts", "file_errors", "injected",
}

// String gives the word used in logs, metrics and by the admin API.
func (r Resource) String() string {
	if r >= resources {
		return "unknown"
	}
	return resourceNames[r]
}

// Resources lists all resources that have a value.
func Resources() []Resource {
	all := make([]Resource, 0, resources-1)
	for r := None + 1; r < resources; r++ {
		all = append(all, r)
	}
	return all
}

// isEvent tells that a resource counts as short for a while after each event,
// instead of between two thresholds.
func (r Resource) isEvent() bool { return r >= ListenDrops && r <= FileErrors }
