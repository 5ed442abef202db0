// SPDX-License-Identifier: Apache-2.0

// The host that the tests run on, as it is.

package pressure

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Whatever Linux this is, each source is read or says why not, and what every
// Linux has is there.
func TestThisHost(t *testing.T) {
	s := New(time.Now())
	defer s.Close()
	for range 3 {
		time.Sleep(20 * time.Millisecond)
		s.Sample(time.Now())
	}
	must := map[string]bool{"go_memory": true, "go_scheduler": true, "go_gc": true, "errors": true, "files": true, "listeners": true, "sockstat": true, "netstat": true}
	for _, st := range s.Sources() {
		t.Logf("%-14s %-12v %v", st.Source, st.Availability, st.Err)
		if (st.Availability == OK) != (st.Err == nil) {
			t.Errorf("%s: got %v with %v", st.Source, st.Availability, st.Err)
		}
		if must[st.Source] && st.Err != nil {
			t.Errorf("%s: got %v, want ok", st.Source, st.Err)
		}
	}
	for _, r := range s.Readings() {
		t.Logf("%-14s %.4f %.2f", r.Resource, r.Value, r.Pressure)
		if !(r.Value >= 0) || !(r.Pressure >= 0 && r.Pressure <= 1) {
			t.Errorf("%s: got %+v", r.Resource, r)
		}
	}
}

func TestFilesOfThisProcess(t *testing.T) {
	r, err := openFiles(&host{root: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	f := r.(*fileCount)
	before, err := f.count()
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		file, err := os.Open("/proc/self/stat")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	after, err := f.count()
	if got := after - before; err != nil || got < 45 || got > 55 {
		t.Errorf("got %d more files, %v, want 50", got, err)
	}
	if n, err := f.entries(); err != nil || n < after-5 || n > after+5 {
		t.Errorf("counting gives %d %v, the size %d", n, err, after)
	}
}

// smallQueue listens with an accept queue of one, and fills it.
func smallQueue(t *testing.T) syscall.RawConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	rc, err := RawConn(struct{ net.Listener }{ln})
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 1) }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Cleanup(func() { runtime.KeepAlive(ln) })
	return rc
}

func TestAcceptQueue(t *testing.T) {
	s := New(begin)
	defer s.Close()
	s.Use(only(AcceptQueue))
	stop := s.Watch(smallQueue(t))
	s.Sample(begin.Add(time.Second))
	if got := s.Pressure(AcceptQueue); got != 1 {
		t.Errorf("a full queue: got %v, want 1", got)
	}
	stop()
	s.Sample(begin.Add(2 * time.Second))
	if got := s.Pressure(AcceptQueue); got != 0 {
		t.Errorf("after stop: got %v, want 0", got)
	}
}

func TestClosedListenerIsForgotten(t *testing.T) {
	s := New(begin)
	defer s.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rc, err := RawConn(ln)
	if err != nil {
		t.Fatal(err)
	}
	stop := s.Watch(rc)
	ln.Close()
	s.Sample(begin.Add(time.Second))
	if s.host.listeners.any() {
		t.Error("a closed listener is still watched")
	}
	stop()
}

// Drops are another program's if none of the watched queues was filling.
func TestDropsOfOthers(t *testing.T) {
	root := t.TempDir()
	baseTree().write(t, root)
	s := newSampler(root, begin)
	defer s.Close()
	s.Use(only(ListenDrops))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	rc, _ := RawConn(ln)
	s.Watch(rc)
	tree{"proc/self/net/netstat": netstatFile(6, 5)}.write(t, root)
	if s.Sample(begin.Add(time.Second)); s.Pressure(ListenDrops) != 0 {
		t.Errorf("with an empty queue: got %v, want 0", s.Pressure(ListenDrops))
	}
	s.Watch(smallQueue(t))
	tree{"proc/self/net/netstat": netstatFile(7, 5)}.write(t, root)
	s.Sample(begin.Add(2 * time.Second)) // listeners are read before netstat
	if got := s.Pressure(ListenDrops); got != eventPressure {
		t.Errorf("with a full queue: got %v, want %v", got, eventPressure)
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	s := New(begin)
	defer s.Close()
	s.Watch(smallQueue(t))
	now := begin
	next := func() { now = now.Add(slowly); s.Sample(now) }
	next()
	next()
	if n := testing.AllocsPerRun(100, next); n != 0 {
		t.Errorf("a sample: got %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { s.State(); s.Pressure(CPU) }); n != 0 {
		t.Errorf("reading: got %v allocations, want 0", n)
	}
}

// BenchmarkSample samples as in use: one in four times what counts over a
// second. A tenth of a percent of a core is 250 000 ns.
func BenchmarkSample(b *testing.B) {
	s := New(begin)
	defer s.Close()
	b.ReportAllocs()
	now := begin
	for b.Loop() {
		now = now.Add(Interval)
		s.Sample(now)
	}
}

func BenchmarkSource(b *testing.B) {
	h := &host{root: "/"}
	for _, src := range append(portableSources(), platformSources()...) {
		b.Run(src.name, func(b *testing.B) {
			src.every = 0
			if src.sample(h, begin); src.err != nil {
				b.Skip(src.err)
			}
			defer src.close()
			now := begin
			for b.Loop() {
				now = now.Add(slowly)
				src.sample(h, now)
			}
		})
	}
}

// BenchmarkAcceptQueue asks one listener.
func BenchmarkAcceptQueue(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	s := New(begin)
	defer s.Close()
	rc, _ := RawConn(ln)
	s.Watch(rc)
	for b.Loop() {
		s.host.listeners.fullest()
	}
}
