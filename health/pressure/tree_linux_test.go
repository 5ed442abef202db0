// SPDX-License-Identifier: Apache-2.0

// A made-up /proc and /sys, read as the real ones are.

package pressure

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// tree is files by their paths.
type tree map[string]string

func psiFile(some, full int) string {
	return fmt.Sprintf("some avg10=%d.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=%d.00 avg60=0.00 avg300=0.00 total=0\n", some, full)
}

func netstatFile(drops, aborts int) string {
	return fmt.Sprintf("TcpExt: ListenOverflows ListenDrops TCPAbortOnMemory\nTcpExt: 0 %d %d\n", drops, aborts)
}

// baseTree is an idle machine with processes in a cgroup of version 2 with limits.
func baseTree() tree {
	const cg = "sys/fs/cgroup/web/"
	return tree{
		"proc/pressure/cpu": psiFile(99, 0), "proc/pressure/memory": psiFile(99, 99), "proc/pressure/io": psiFile(99, 0),
		"proc/self/cgroup":                          "0::/web\n",
		"proc/self/mountinfo":                       "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n",
		"proc/self/net/sockstat":                    "sockets: used 33\nTCP: inuse 10 orphan 0 tw 10 alloc 15 mem 0\n",
		"proc/self/net/netstat":                     netstatFile(5, 5),
		"proc/self/fd/0":                            "",
		cg + "cgroup.type":                          "domain\n",
		cg + "cpu.pressure":                         psiFile(0, 0),
		cg + "memory.pressure":                      psiFile(0, 0),
		cg + "io.pressure":                          psiFile(0, 0),
		cg + "cpu.stat":                             "usage_usec 1\nnr_periods 100\nnr_throttled 50\nthrottled_usec 1\n",
		cg + "memory.max":                           "107374182400\n",
		cg + "memory.high":                          "max\n",
		cg + "memory.current":                       "1073741824\n",
		cg + "memory.stat":                          "anon 1\ninactive_file 0\nactive_file 0\n",
		"proc/sys/net/ipv4/tcp_mem":                 "100\t200\t300\n",
		"proc/sys/net/ipv4/ip_local_port_range":     "30001\t31000\n",
		"proc/sys/net/netfilter/nf_conntrack_count": "10\n",
		"proc/sys/net/netfilter/nf_conntrack_max":   "1000\n",
	}
}

func (t tree) write(tb testing.TB, root string) {
	tb.Helper()
	for path, text := range t {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

const treeCgroup = "sys/fs/cgroup/web/"

func TestSources(t *testing.T) {
	errPorts := &os.SyscallError{Syscall: "connect", Err: syscall.EADDRNOTAVAIL}
	for _, c := range []struct {
		name     string
		resource Resource
		change   tree
		err      error
		p        float64
	}{
		{"idle", CPU, nil, nil, 0},
		{"processor", CPU, tree{treeCgroup + "cpu.pressure": psiFile(60, 0)}, nil, .5},
		{"memory, some wait", MemoryStall, tree{treeCgroup + "memory.pressure": psiFile(25, 0)}, nil, .5},
		{"memory, all wait", MemoryFull, tree{treeCgroup + "memory.pressure": psiFile(25, 6)}, nil, .5},
		{"disk", IOStall, tree{treeCgroup + "io.pressure": psiFile(50, 0)}, nil, .5},
		{"throttled", Throttling, tree{treeCgroup + "cpu.stat": "nr_periods 200\nnr_throttled 75\n"}, nil, .5},
		{"memory", MemoryLimit, tree{treeCgroup + "memory.current": "104689827840\n"}, nil, .5},
		{"copies of files", MemoryLimit, tree{
			treeCgroup + "memory.current": "107374182400\n", treeCgroup + "memory.stat": "inactive_file 9000000000\nactive_file 9000000000\n",
		}, nil, 0},
		{"a lower limit", MemoryLimit, tree{treeCgroup + "memory.high": "1100000000\n"}, nil, .522},
		{"conntrack", Conntrack, tree{"proc/sys/net/netfilter/nf_conntrack_count": "875\n"}, nil, .5},
		{"TCP memory", TCPMemory, tree{"proc/self/net/sockstat": "TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 285\n"}, nil, 1},
		{"many sockets are no want of ports", Ports, tree{"proc/self/net/sockstat": "TCP: inuse 400 orphan 0 tw 500 alloc 1 mem 0\n"}, nil, 0},
		{"nor is an address that is not there", Ports, nil, errPorts, 0},
		{"both are", Ports, tree{"proc/self/net/sockstat": "TCP: inuse 400 orphan 0 tw 400 alloc 1 mem 0\n"}, errPorts, .5},
		{"dropped connections", ListenDrops, tree{"proc/self/net/netstat": netstatFile(6, 5)}, nil, .8},
		{"aborts for memory", TCPAborts, tree{"proc/self/net/netstat": netstatFile(5, 6)}, nil, .8},
		{"no files left", FileErrors, nil, &os.SyscallError{Syscall: "accept", Err: syscall.EMFILE}, .8},
		{"another error", FileErrors, nil, errors.New("x"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			baseTree().write(t, root)
			s := newSampler(root, begin)
			defer s.Close()
			s.Use(only(c.resource))
			s.Sample(begin.Add(time.Second))
			c.change.write(t, root)
			s.ObserveError(c.err)
			s.Sample(begin.Add(2 * time.Second))
			if got := s.Pressure(c.resource); got < c.p-.001 || got > c.p+.001 {
				t.Errorf("got %v, want %v (%+v)", got, c.p, s.Readings())
			}
			if st := s.State(); c.p > 0 && st.Resource != c.resource {
				t.Errorf("got %+v, want the cause %s", st, c.resource)
			}
		})
	}
}

// Events count for five seconds, then P falls.
func TestEventHolds(t *testing.T) {
	root := t.TempDir()
	baseTree().write(t, root)
	s := newSampler(root, begin)
	defer s.Close()
	s.Use(only(ListenDrops))
	tree{"proc/self/net/netstat": netstatFile(6, 5)}.write(t, root)
	for _, step := range []struct{ at, p float64 }{{1, .8}, {5.75, .8}, {6, .8 * .9659363}, {10.75, .8 / 2}} {
		s.Sample(begin.Add(time.Duration(step.at * float64(time.Second))))
		if got := s.State().P; got < step.p-.001 || got > step.p+.001 {
			t.Errorf("at %v s: got %v, want %v", step.at, got, step.p)
		}
	}
}

// Host-wide waits count for half, since they need not be ours.
func TestHostWidePressure(t *testing.T) {
	root, files := t.TempDir(), baseTree()
	files["proc/self/cgroup"] = "4:memory:/web\n1:cpu,cpuacct:/web\n"
	files["proc/self/mountinfo"] = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	const memory, cpu = "sys/fs/cgroup/memory/", "sys/fs/cgroup/cpu/web/"
	maps.Copy(files, tree{
		"proc/pressure/cpu":                    psiFile(96, 0),
		memory + "web/memory.limit_in_bytes":   "9223372036854771712\n",
		memory + "memory.limit_in_bytes":       "1000\n",
		memory + "memory.usage_in_bytes":       "1075\n",
		memory + "memory.stat":                 "inactive_file 9\ntotal_inactive_file 50\ntotal_active_file 50\n",
		cpu + "cpu.stat":                       "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
		"sys/fs/cgroup/memory/web/memory.stat": "",
	})
	files.write(t, root)
	s := newSampler(root, begin)
	defer s.Close()
	s.Sample(begin.Add(time.Second))
	if got := s.Pressure(CPU); !near(got, .2) {
		t.Errorf("processor: got %v, want 0.2", got)
	}
	if got := s.Pressure(MemoryLimit); !near(got, .5) {
		t.Errorf("memory of version 1, limited above us: got %v, want 0.5", got)
	}
	tree{cpu + "cpu.stat": "nr_periods 10\nnr_throttled 9\n"}.write(t, root)
	s.Sample(begin.Add(2 * time.Second))
	if got := s.Pressure(Throttling); got != 1 {
		t.Errorf("throttling of version 1: got %v, want 1", got)
	}
}

// Without /proc and /sys only what Go tells is left, and nothing fails. What
// comes later is found.
func TestMissing(t *testing.T) {
	root := t.TempDir()
	s := newSampler(root, begin)
	defer s.Close()
	s.Use(only(CPU))
	s.Sample(begin.Add(time.Second))
	for _, st := range s.Sources() {
		portable := slices.ContainsFunc(portableSources(), func(p *source) bool { return p.name == st.Source }) || st.Source == "listeners"
		if (st.Availability == OK) != portable || (st.Err == nil) != portable {
			t.Errorf("%s: got %v %v", st.Source, st.Availability, st.Err)
		}
	}
	files := baseTree()
	files[treeCgroup+"cpu.pressure"] = psiFile(60, 0)
	files.write(t, root)
	for _, step := range []struct {
		at   time.Duration
		want float64
	}{{retryAfter - time.Second, 0}, {retryAfter + 2*time.Second, .5}} {
		s.Sample(begin.Add(step.at))
		if got := s.Pressure(CPU); !near(got, step.want) {
			t.Errorf("after %v: got %v, want %v", step.at, got, step.want)
		}
	}
}

// Files that make no sense are missing sources, not faults.
func TestNonsense(t *testing.T) {
	root, files := t.TempDir(), baseTree()
	for path := range files {
		if path != "proc/self/cgroup" && path != "proc/self/mountinfo" {
			files[path] = "nonsense\n"
		}
	}
	files.write(t, root)
	s := newSampler(root, begin)
	defer s.Close()
	s.Use(only(CPU))
	for i := range 10 {
		s.Sample(begin.Add(time.Duration(i) * time.Second))
	}
	if st := s.State(); st != (State{}) {
		t.Errorf("got %+v, want none", st)
	}
}

func TestDeniedIsTold(t *testing.T) {
	src := &source{name: "x", open: func(*host) (reader, error) { return nil, &os.PathError{Op: "open", Path: "x", Err: syscall.EACCES} }}
	src.sample(&host{}, begin)
	if got := src.status(); got.Availability != Denied || got.Err == nil {
		t.Errorf("got %+v, want denied", got)
	}
}

func TestFilesCounted(t *testing.T) {
	root, files := t.TempDir(), tree{}
	for i := range 37 {
		files[fmt.Sprintf("proc/self/fd/%d", i)] = ""
	}
	files.write(t, root)
	r, err := openFiles(&host{root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if n, err := r.(*fileCount).count(); n != 37 || err != nil {
		t.Errorf("got %d %v, want 37", n, err)
	}
}
