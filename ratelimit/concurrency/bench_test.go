// SPDX-License-Identifier: Apache-2.0

// What a request costs that nothing stops, and one that waits.

package concurrency

import (
	"context"
	"testing"
	"time"
)

// pass is one request that nothing stops.
func pass(ctx context.Context, g *Gate, l *Limiter, now time.Time) {
	ticket, _ := g.Admit(ctx, Request{Client: 42}, now)
	p := l.Take()
	ticket.Use()
	p.Done(20*time.Millisecond, OK, now.Add(20*time.Millisecond))
}

func enforcing(origins int) (*Gate, []*Limiter) {
	g := NewGate(Policy{Mode: Enforce, Queue: LongestQueue, Reserve: true})
	var list []*Limiter
	for range origins {
		list = append(list, NewLimiter(epoch))
	}
	g.Sync(list)
	return g, list
}

func TestPassingAllocatesNothing(t *testing.T) {
	g, l := enforcing(3)
	now, ctx := epoch, context.Background()
	got := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		pass(ctx, g, l[0], now)
	})
	if got > 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

func BenchmarkPass(b *testing.B) {
	g, l := enforcing(3)
	now, ctx := epoch, context.Background()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		pass(ctx, g, l[0], now)
	}
}

func BenchmarkPassParallel(b *testing.B) {
	g, l := enforcing(3)
	b.RunParallel(func(pb *testing.PB) {
		now, ctx := epoch, context.Background()
		for pb.Next() {
			now = now.Add(time.Millisecond)
			pass(ctx, g, l[0], now)
		}
	})
}

// BenchmarkQueue is one request that waits for another's end.
func BenchmarkQueue(b *testing.B) {
	g, origins := gateOf(Policy{Mode: Enforce, Queue: LongestQueue}, 1)
	b.ReportAllocs()
	for b.Loop() {
		origins[0].inflight = 1
		w := &waiter{ready: make(chan answer, 1)}
		g.enter(w)
		origins[0].inflight = 0
		g.Wake()
		t, _ := g.ticket(<-w.ready)
		t.Use()
	}
}
