// SPDX-License-Identifier: Apache-2.0

// What all Spools of a server keep together.

package failover

import (
	"errors"
	"sync/atomic"
)

// errSpoolBudget is why a body is not kept although it is short enough.
var errSpoolBudget = errors.New("the request bodies kept at this time use up what all of them may take together")

// SpoolBudget bounds what all Spools that share it keep together, whatever the
// number of clients that upload at the same time. A Spool that gets nothing from
// it lets its body pass through without keeping it. Methods may be called from
// several goroutines; a nil budget is unlimited.
type SpoolBudget struct {
	memory, file       atomic.Int64
	maxMemory, maxFile int64
}

// NewSpoolBudget makes a budget of so many bytes in memory and in files.
func NewSpoolBudget(memory, file int64) *SpoolBudget {
	return &SpoolBudget{maxMemory: memory, maxFile: file}
}

// take reserves all of it or nothing.
func (b *SpoolBudget) take(memory, file int64) bool {
	if b == nil {
		return true
	}
	if b.memory.Add(memory) <= b.maxMemory && b.fileFits(file) {
		return true
	}
	b.memory.Add(-memory)
	return false
}

func (b *SpoolBudget) fileFits(n int64) bool {
	if b.file.Add(n) <= b.maxFile {
		return true
	}
	b.file.Add(-n)
	return false
}

// giveBack ends a reservation.
func (b *SpoolBudget) giveBack(memory, file int64) {
	if b != nil {
		b.memory.Add(-memory)
		b.file.Add(-file)
	}
}
