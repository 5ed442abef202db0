// SPDX-License-Identifier: Apache-2.0

// The sampler on any system.

package pressure

import (
	"context"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"
	"time"
)

// only lets one resource count, so that the real Go runtime does not.
func only(r Resource) Config {
	c := DefaultConfig()
	c.Ignore = slices.DeleteFunc(Resources(), func(o Resource) bool { return o == r })
	return c
}

func TestInject(t *testing.T) {
	s := New(begin)
	defer s.Close()
	s.Use(only(Injected))
	for _, step := range []struct {
		at     time.Duration
		inject float64
		want   State
	}{
		{1, .5, State{.5, Elevated, Injected}},
		{2, 7, State{1, Critical, Injected}},
		{7, 0, State{.5, High, Injected}},
		{120, math.NaN(), State{}},
	} {
		s.Inject(step.inject)
		s.Sample(begin.Add(step.at * time.Second))
		if got := s.State(); !near(got.P, step.want.P) || got.Level != step.want.Level || got.Resource != step.want.Resource {
			t.Errorf("at %d: got %+v, want %+v", step.at, got, step.want)
		}
	}
}

// Whatever is called at the same time, the race detector has nothing to say.
func TestConcurrentUse(t *testing.T) {
	s := New(time.Now())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				s.Sample(time.Now())
				s.State()
				s.Pressure(CPU)
				s.Inject(.1)
				s.ObserveError(context.Canceled)
				s.Use(DefaultConfig())
				s.Readings()
				s.Sources()
			}
		})
	}
	wg.Wait()
	s.Close()
	s.Sample(time.Now())
	s.Close()
}

func TestRawConnWithoutSocket(t *testing.T) {
	for name, ln := range map[string]net.Listener{"nil": nil, "empty": struct{ net.Listener }{}, "pointer": &struct{ net.Listener }{}} {
		if rc, err := RawConn(ln); err == nil {
			t.Errorf("%s: got %v, want an error", name, rc)
		}
	}
}

var kept, churn []byte

// With a limit and much garbage Go fills the limit on purpose. That is no
// shortage.
func TestGarbageIsNotPressure(t *testing.T) {
	const limit = 200 << 20
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	defer func() { kept = nil; runtime.GC() }()
	kept = make([]byte, 50<<20)
	r, err := openGoMemory(&host{})
	if err != nil {
		t.Fatal(err)
	}
	var naive, ours float64
	const samples = 50
	for range samples {
		for range 500 {
			churn = make([]byte, 16<<10)
		}
		var v values
		if err := r.read(&v, begin); err != nil {
			t.Fatal(err)
		}
		ours, naive = ours+v[0]/samples, max(naive, usedOf(limit))
	}
	t.Logf("all of it: %.2f of the limit, what is needed: %.2f", naive, ours)
	if naive < .8 || ours > .6 || ours < .2 {
		t.Errorf("got %.2f needed and %.2f in all, want about 0.3 and 0.9 or more", ours, naive)
	}
}

func usedOf(limit float64) float64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64()-s[1].Value.Uint64()) / limit
}

func BenchmarkState(b *testing.B) {
	s := New(begin)
	defer s.Close()
	for b.Loop() {
		if !s.State().Retry() {
			b.Fatal("pressure without a source")
		}
	}
}
