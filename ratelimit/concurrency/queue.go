// SPDX-License-Identifier: Apache-2.0

// The queue: requests that wait for a place, by class.

package concurrency

// waiter is a request that waits. ready takes one value: true for a place, false
// if another request was more important.
type waiter struct {
	class      Class
	ready      chan answer
	next, prev *waiter
	queued     bool
}

type answer struct {
	w     *waiter
	place bool
}

// queue holds waiters, the highest class first. Its user must hold a lock.
type queue struct {
	newestFirst bool // who of a class is served first
	lists       [classes]list
	length      int
}

// list is a ring with a head: next is the oldest, prev the newest.
type list struct{ head waiter }

func (l *list) empty() bool { return l.head.next == nil || l.head.next == &l.head }

func (q *queue) push(w *waiter) {
	head := &q.lists[w.class.index()].head
	if head.next == nil {
		head.next, head.prev = head, head
	}
	w.prev, w.next = head.prev, head
	w.prev.next, head.prev = w, w
	w.queued = true
	q.length++
}

// remove takes a waiter out. It tells whether it was still there.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	w.prev.next, w.next.prev = w.next, w.prev
	w.next, w.prev, w.queued = nil, nil, false
	q.length--
	return true
}

// first is who is served next; nil if nobody waits.
func (q *queue) first() *waiter {
	for i := classes - 1; i >= 0; i-- {
		if l := &q.lists[i]; !l.empty() {
			if q.newestFirst {
				return l.head.prev
			}
			return l.head.next
		}
	}
	return nil
}

// last is who is served last, and goes when the queue is full.
func (q *queue) last() *waiter {
	for i := range q.lists {
		if l := &q.lists[i]; !l.empty() {
			if q.newestFirst {
				return l.head.next
			}
			return l.head.prev
		}
	}
	return nil
}
