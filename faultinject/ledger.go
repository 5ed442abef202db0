// SPDX-License-Identifier: Apache-2.0

// This file remembers which requests the origin may have acted on.

package faultinject

import "sync"

// maxLedgerIDs bounds the memory of a ledger. Ids beyond it are not counted.
const maxLedgerIDs = 100_000

// ledger counts executions by request id.
type ledger struct {
	mu   sync.Mutex // guards seen
	seen map[string]int
}

func newLedger() *ledger { return &ledger{seen: make(map[string]int)} }

func (l *ledger) enter(id string) {
	if id == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.seen[id]; !known && len(l.seen) >= maxLedgerIDs {
		return
	}
	l.seen[id]++
}

func (l *ledger) count(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[id]
}
