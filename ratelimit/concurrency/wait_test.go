// SPDX-License-Identifier: Apache-2.0

// The queue: order, number and time of those who wait, on virtual time.

package concurrency

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is requests that wait before a gate, and who of them passed, in order.
type crowd struct {
	gate   *Gate
	mu     sync.Mutex
	passed []string
	ended  map[string]Reason
	wg     sync.WaitGroup
}

func (c *crowd) come(ctx context.Context, name string, class Class) {
	c.wg.Go(func() {
		_, reason := c.gate.Admit(ctx, Request{Class: class}, epoch)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended[name] = reason
		if reason == NotRefused {
			c.passed = append(c.passed, name)
		}
	})
	synctest.Wait()
}

// free gives a place, that whoever passes keeps.
func (c *crowd) free(f *fixed) {
	f.limit++
	c.gate.Wake()
	synctest.Wait()
}

// inCrowd runs a test in a bubble, with one origin that is full.
func inCrowd(t *testing.T, limit int, test func(*testing.T, *crowd, *fixed)) {
	synctest.Test(t, func(t *testing.T) {
		g, origins := gateOf(Policy{Mode: Enforce, Queue: LongestQueue}, limit)
		origins[0].inflight = limit
		c := &crowd{gate: g, ended: map[string]Reason{}}
		test(t, c, origins[0])
		c.wg.Wait()
		if n := g.Queued(); n != 0 {
			t.Errorf("still in the queue: %d", n)
		}
	})
}

func TestQueueServesHigherClassesFirst(t *testing.T) {
	inCrowd(t, 10, func(t *testing.T, c *crowd, f *fixed) {
		c.come(t.Context(), "background", Background)
		c.come(t.Context(), "default 1", Default)
		c.come(t.Context(), "default 2", Default)
		c.come(t.Context(), "critical", Critical)
		for range 4 {
			c.free(f)
		}
		want := []string{"critical", "default 1", "default 2", "background"}
		if !slices.Equal(c.passed, want) {
			t.Errorf("got %q, want %q", c.passed, want)
		}
	})
}

func TestQueueWakesAsManyAsThereArePlaces(t *testing.T) {
	inCrowd(t, 10, func(t *testing.T, c *crowd, f *fixed) {
		for _, name := range []string{"a", "b", "c"} {
			c.come(t.Context(), name, Default)
		}
		f.limit += 2
		c.gate.Wake()
		synctest.Wait()
		if len(c.passed) != 2 || c.gate.Queued() != 1 {
			t.Errorf("got %d passed and %d waiting, want 2 and 1", len(c.passed), c.gate.Queued())
		}
	})
}

func TestQueueEndsInTime(t *testing.T) {
	inCrowd(t, 10, func(t *testing.T, c *crowd, _ *fixed) {
		began := time.Now()
		c.come(t.Context(), "a", Critical)
		c.wg.Wait()
		if took := time.Since(began); c.ended["a"] != WaitedLong || took != LongestQueue {
			t.Errorf("got %q after %v, want %q after %v", c.ended["a"], took, WaitedLong, LongestQueue)
		}
	})
}

func TestQueueTurnsAfterOneWaitedInVain(t *testing.T) {
	inCrowd(t, 10, func(t *testing.T, c *crowd, f *fixed) {
		c.come(t.Context(), "late", Default)
		time.Sleep(LongestQueue / 2)
		c.come(t.Context(), "older", Default)
		time.Sleep(LongestQueue/2 + 1)
		c.come(t.Context(), "newer", Default)
		c.free(f)
		if want := []string{"newer"}; !slices.Equal(c.passed, want) {
			t.Errorf("got %q, want %q", c.passed, want)
		}
	})
}

func TestQueueForgetsWhoHasGone(t *testing.T) {
	inCrowd(t, 10, func(t *testing.T, c *crowd, f *fixed) {
		ctx, cancel := context.WithCancel(t.Context())
		c.come(ctx, "gone", Critical)
		c.come(t.Context(), "stays", Default)
		cancel()
		synctest.Wait()
		c.free(f)
		if want := []string{"stays"}; c.ended["gone"] != Gone || !slices.Equal(c.passed, want) {
			t.Errorf("got %q and passed %q, want %q and %q", c.ended["gone"], c.passed, Gone, want)
		}
	})
}

func TestPlaceOfOneWhoHasGoneIsHandedOn(t *testing.T) {
	g, _ := gateOf(Policy{Mode: Enforce}, 1)
	gone := &waiter{ready: make(chan answer, 1)}
	gone.ready <- answer{gone, true}
	g.pending.Add(1)
	if _, reason := g.giveUp(gone, Gone); reason != Gone || g.pending.Load() != 0 {
		t.Errorf("got %q and %d tickets, want %q and none", reason, g.pending.Load(), Gone)
	}
}

func TestFullQueueKeepsWhatMattersMore(t *testing.T) {
	inCrowd(t, 1, func(t *testing.T, c *crowd, _ *fixed) {
		for _, name := range []string{"a", "b", "c"} {
			c.come(t.Context(), name, Default)
		}
		c.come(t.Context(), "background", Background)
		c.come(t.Context(), "too late", Background)
		if c.ended["too late"] != QueueFull {
			t.Errorf("too late: got %q, want %q", c.ended["too late"], QueueFull)
		}
		c.come(t.Context(), "critical", Critical)
		if c.ended["background"] != QueueFull || c.gate.Queued() != queueFactor {
			t.Errorf("got %q and %d waiting, want %q and %d", c.ended["background"], c.gate.Queued(), QueueFull, queueFactor)
		}
	})
}
