// SPDX-License-Identifier: Apache-2.0

// Waiting for a place.

package concurrency

import (
	"context"
	"time"
)

// queueFactor is how many may wait for each place that there is. Where answers
// take 30 ms, as many are served within LongestQueue.
const queueFactor = 4

// order is who of a class is served first; docs/overload.md compares.
type order uint8

const (
	// byLoad is the oldest first until one waits in vain, and then the newest
	// until nobody waits. A burst is served in order, and all of it in time; in an
	// overload the oldest would be served when it is just about to be too late.
	byLoad order = iota
	oldestFirst
	newestFirst
)

// wait puts a request into the queue until it has a place or its time is over.
func (g *Gate) wait(ctx context.Context, class Class) (Ticket, Reason) {
	w := &waiter{class: class, ready: make(chan answer, 1)}
	if !g.enter(w) {
		return Ticket{}, QueueFull
	}
	timer := time.NewTimer(g.policy.Queue)
	defer timer.Stop()
	select {
	case a := <-w.ready:
		return g.ticket(a)
	case <-timer.C:
		return g.giveUp(w, WaitedLong)
	case <-ctx.Done():
		return g.giveUp(w, Gone)
	}
}

// enter puts a waiter into the queue, in another's place if there is none and
// the other one matters less. A place may have become free meanwhile.
func (g *Gate) enter(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue.length == 0 {
		g.queue.newestFirst = g.order == newestFirst
	}
	g.queue.push(w)
	for full := g.queue.length > g.capacity(); full; full = false {
		last := g.queue.last()
		g.queue.remove(last)
		if last == w {
			return false
		}
		last.ready <- answer{last, false}
	}
	g.noteLocked() // before it looks for room: who gives a place back looks for this
	g.wakeLocked()
	return true
}

// capacity is how many may wait.
func (g *Gate) capacity() int {
	limit := 0
	for _, s := range *g.origins.Load() {
		limit += s.Limit()
	}
	return queueFactor * limit
}

func (g *Gate) ticket(a answer) (Ticket, Reason) {
	if !a.place {
		return Ticket{}, QueueFull
	}
	return Ticket{gate: g, Queued: true}, NotRefused
}

// giveUp takes a waiter out, unless it has just been given a place: that is used,
// or handed on if there is nobody any more to use it.
func (g *Gate) giveUp(w *waiter, reason Reason) (Ticket, Reason) {
	if g.withdraw(w) {
		return Ticket{}, reason
	}
	t, refused := g.ticket(<-w.ready)
	if reason == Gone {
		t.Use()
		g.Wake()
		return Ticket{}, reason
	}
	return t, refused
}

// withdraw takes a waiter out. It tells whether it still waited.
func (g *Gate) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.queue.remove(w) {
		return false
	}
	g.queue.newestFirst = g.order != oldestFirst
	g.noteLocked()
	return true
}
