// SPDX-License-Identifier: Apache-2.0

// What the operator is told when this host itself is short of something.

package diagnose

// ShortageHint says what to do when the proxy's host is short of a resource, named
// as in logs and metrics (docs/pressure.md lists the names); empty for one it does
// not know. The texts are bounded as those of Hint.
func ShortageHint(resource string) string {
	switch resource {
	case "memory", "memory_limit", "memory_stall", "memory_full":
		return "Give Caddy or its control group more memory (MemoryMax, GOMEMLIMIT), or find what takes it here: `ps aux --sort=-rss`."
	case "cpu", "sched_latency", "gc":
		return "Other work takes this host's processors: see `top`. Move it, or give Caddy more of them."
	case "throttling":
		return "The quota of Caddy's control group is used up: raise its `cpu.max` (CPUQuota)."
	case "files", "file_errors":
		return "Caddy has too few file descriptors: raise LimitNOFILE of its service, or `ulimit -n`."
	case "conntrack":
		return "The firewall's table of connections is nearly full: raise `net.netfilter.nf_conntrack_max`."
	case "ports":
		return "Nearly all local ports are in use: keep more idle connections (`keepalive_idle_conns_per_host`), or widen `net.ipv4.ip_local_port_range`."
	case "accept_queue", "listen_drops":
		return "New connections wait to be accepted: this host's processors are busy, or the queue is short (`net.core.somaxconn`)."
	case "tcp_memory", "tcp_aborts":
		return "The kernel has too little memory for connections: raise `net.ipv4.tcp_mem`, or look for slow readers."
	case "io_stall":
		return "Work waits for this host's disks: see `iostat -x`."
	}
	return ""
}
