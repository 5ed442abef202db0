// SPDX-License-Identifier: Apache-2.0

// What an outcome and a choice cost, with few and with many origins.

package health

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

func benchView(tb testing.TB, hosts int) *View {
	tb.Helper()
	v := NewPool(simBegin).View(DefaultEjectPolicy())
	v.Sync(simOrigins(hosts), simBegin)
	return v
}

var benchSizes = []int{3, 100, 1000}

func BenchmarkObserve(b *testing.B) {
	for _, hosts := range benchSizes {
		b.Run(fmt.Sprintf("members=%d", hosts), func(b *testing.B) {
			v, f := benchView(b, hosts), fault(PhaseWait)
			list := *v.origins.Load()
			b.ReportAllocs()
			for i := range b.N {
				o := Outcome{TTFB: 10 * time.Millisecond}
				if i%1000 == 0 {
					o = Outcome{Fault: f}
				}
				v.Observe(list[i%hosts].m, o, simBegin.Add(time.Duration(i)*10*time.Microsecond))
			}
		})
	}
}

func BenchmarkObserveParallel(b *testing.B) {
	v := benchView(b, 3)
	list := *v.origins.Load()
	var clock atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := clock.Add(1)
			v.Observe(list[i%3].m, Outcome{TTFB: 10 * time.Millisecond}, simBegin.Add(time.Duration(i)*10*time.Microsecond))
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, hosts := range benchSizes {
		b.Run(fmt.Sprintf("members=%d", hosts), func(b *testing.B) {
			v := benchView(b, hosts)
			b.ReportAllocs()
			for range b.N {
				v.Pick(Request{}, simBegin)
			}
		})
	}
}

func BenchmarkPickHalfEjected(b *testing.B) {
	for _, hosts := range benchSizes {
		b.Run(fmt.Sprintf("members=%d", hosts), func(b *testing.B) {
			v := benchView(b, hosts)
			for i, e := range *v.origins.Load() {
				if i%2 == 0 {
					v.Observe(e.m, Outcome{Fault: brokenFault()}, simBegin)
				}
			}
			b.ReportAllocs()
			for range b.N {
				v.Pick(Request{}, simBegin)
			}
		})
	}
}

func TestObserveAndPickDoNotAllocate(t *testing.T) {
	v, f, i := benchView(t, 100), fault(PhaseWait), 0
	list := *v.origins.Load()
	tried := []*Member{list[0].m}
	step := func() {
		i++
		now := simBegin.Add(time.Duration(i) * time.Millisecond)
		o := Outcome{TTFB: 10 * time.Millisecond, Conn: uint64(i)}
		if i%100 == 0 {
			o.Fault = f
		}
		c, _ := v.Pick(Request{Tried: tried, Trial: true}, now)
		c.Member.Begin()
		v.Observe(c.Member, o, now)
		c.Member.End()
	}
	for range 3000 {
		step() // the pool's buffer for medians grows to its size
	}
	if n := testing.AllocsPerRun(10_000, step); n != 0 {
		t.Errorf("Pick and Observe: got %v allocations, want 0", n)
	}
}

// BenchmarkAdd takes in origins that are named by requests, with no end.
func BenchmarkAdd(b *testing.B) {
	v := benchView(b, 3)
	b.ReportAllocs()
	for i := range b.N {
		v.Add(fmt.Sprint("host", i, ":80"), simBegin.Add(time.Duration(i)*time.Millisecond))
	}
}
