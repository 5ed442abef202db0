// SPDX-License-Identifier: Apache-2.0

// How long places have been taken: those that were for long do not count any
// more.

package concurrency

import (
	"sync/atomic"
	"time"
)

const (
	// longestCounted is how long a place counts as taken, give or take a second.
	// What takes longer is a long poll, or somebody who holds places so that
	// others have none; an estimate of a limit is about neither.
	longestCounted = 10 * time.Second
	ageStep        = time.Second
	ageSteps       = int64(longestCounted / ageStep)
)

// ages counts places by the second in which they were taken. A generation and a
// count share a word, so that a place is given back either by its request or
// because it is old, and never twice.
type ages struct {
	step  atomic.Int64
	steps [ageSteps]atomic.Uint64 // the step's low 32 bits, and how many
}

// born is the second in which a place was taken.
type born uint32

func (a *ages) enter() born {
	for {
		step := a.step.Load()
		slot := &a.steps[step%ageSteps]
		old := slot.Load()
		if uint32(old>>32) != uint32(step) {
			continue // the turn is just being made
		}
		if slot.CompareAndSwap(old, old+1) {
			return born(step)
		}
	}
}

// leave tells whether the place still counted.
func (a *ages) leave(b born) bool {
	slot := &a.steps[int64(b)%ageSteps]
	for {
		old := slot.Load()
		if uint32(old>>32) != uint32(b) || uint32(old) == 0 {
			return false
		}
		if slot.CompareAndSwap(old, old-1) {
			return true
		}
	}
}

// turn begins the next step if it is due, and returns how many places were taken
// too long ago to count. Only one goroutine may call it at a time.
func (a *ages) turn(t time.Duration) (forgotten int64) {
	now := int64(t / ageStep)
	for step := a.step.Load(); step < now; {
		if now-step > ageSteps { // nobody called for long: all of them are old
			step = now - ageSteps
		}
		step++
		old := a.steps[step%ageSteps].Swap(uint64(uint32(step)) << 32)
		forgotten += int64(uint32(old))
		a.step.Store(step)
	}
	return forgotten
}
