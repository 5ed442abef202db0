// SPDX-License-Identifier: Apache-2.0

// The sources that Linux has, and the simpler ones of them.

package pressure

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func platformSources() []*source {
	return []*source{
		{name: "psi_cpu", feeds: []Resource{CPU}, open: openPSI("cpu")},
		{name: "psi_memory", feeds: []Resource{MemoryStall, MemoryFull}, open: openPSI("memory")},
		{name: "psi_io", feeds: []Resource{IOStall}, every: slowly, open: openPSI("io")},
		{name: "cgroup_memory", feeds: []Resource{Memory, MemoryLimit}, open: openCgroupMemory},
		{name: "cgroup_cpu", feeds: []Resource{Throttling}, every: slowly, open: openThrottling},
		{name: "files", feeds: []Resource{Files}, open: openFiles},
		{name: "conntrack", feeds: []Resource{Conntrack}, every: slowly, open: openConntrack},
		{name: "sockstat", feeds: []Resource{Ports, TCPMemory}, every: slowly, open: openSockstat},
		{name: "listeners", feeds: []Resource{AcceptQueue}, open: openQueues},
		{name: "netstat", feeds: []Resource{ListenDrops, TCPAborts}, every: slowly, open: openNetstat},
	}
}

// acceptQueue asks a listening socket for its queue: tcpi_unacked is its length
// and tcpi_sacked what it may hold. It asks the kernel itself, since
// unix.GetsockoptTCPInfo allocates.
func acceptQueue(fd uintptr) float64 {
	var info unix.TCPInfo
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || info.Sacked == 0 {
		return 0
	}
	return float64(info.Unacked) / float64(info.Sacked)
}

func openQueues(h *host) (reader, error) { return queueReader{h}, nil }

// hostWideShare is what the pressure of the whole machine counts for. In it are
// other programs' waits, which need not be ours: a batch job of low priority
// waits all the time and slows nobody down.
const hostWideShare = 0.5

// psiReader reads pressure stall information: of our cgroup if it has its own,
// else of the whole machine.
type psiReader struct {
	file  *procFile
	share float64
}

func openPSI(what string) func(h *host) (reader, error) {
	return func(h *host) (reader, error) {
		if dir, ok := h.ownCgroup(); ok {
			if f, err := openProc(h.root, dir+"/"+what+".pressure"); err == nil {
				return &psiReader{f, 1}, nil
			}
		}
		f, err := openProc(h.root, "proc/pressure/"+what)
		if err != nil {
			return nil, err
		}
		return &psiReader{f, hostWideShare}, nil
	}
}

func (p *psiReader) read(v *values, _ time.Time) error {
	text, err := p.file.read()
	if err != nil {
		return err
	}
	some, ok := psi(text, "some")
	if !ok {
		return p.file.invalid()
	}
	full, _ := psi(text, "full") // old kernels have none for the processor
	v[0], v[1] = some*p.share, full*p.share
	return nil
}

func (p *psiReader) close() { p.file.close() }

// ratio divides one file's number by another's.
type ratio struct{ files []*procFile }

func openConntrack(h *host) (reader, error) {
	files, err := openAll(h.root, "proc/sys/net/netfilter/nf_conntrack_count", "proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return nil, err
	}
	return &ratio{files}, nil
}

func (r *ratio) read(v *values, _ time.Time) error {
	count, _, err := r.files[0].number()
	if err != nil {
		return err
	}
	limit, ok, err := r.files[1].number()
	if err != nil {
		return err
	}
	v[0] = 0
	if ok && limit > 0 {
		v[0] = count / limit
	}
	return nil
}

func (r *ratio) close() { closeAll(r.files) }
