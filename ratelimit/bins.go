// SPDX-License-Identifier: Apache-2.0

// Bins: those who look alike among the unproven share one small budget, so that
// one of them alone cannot use up the pool.

package ratelimit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// binRate is what every bin gets per second; requests cost as much of it as
// their address's budget wants.
const binRate = 1_000_000

// bin is shared by chance with bins of other addresses: keyed hashes choose.
type bin struct {
	lim rate.Limiter
	// seen and refused are requests, halved together from time to time.
	seen, refused uint8
	filled        bool
}

// binArray is one array for the bins of all addresses, in rows that take memory
// from their first use on.
type binArray struct {
	rows  [][]bin // a power of two
	locks [256]sync.Mutex
}

const binRow = 16

func newBinArray(n int) *binArray {
	rows := 1
	for rows*binRow < n {
		rows *= 2
	}
	return &binArray{rows: make([][]bin, rows)}
}

// lock locks and returns a hash's bin.
func (a *binArray) lock(hash uint64) (*bin, *sync.Mutex) {
	i := hash / binRow & uint64(len(a.rows)-1)
	mu := &a.locks[i%uint64(len(a.locks))]
	mu.Lock()
	if a.rows[i] == nil {
		a.rows[i] = make([]bin, binRow)
	}
	b := &a.rows[i][hash%binRow]
	if !b.filled {
		b.lim.SetLimitAt(time.Time{}, binRate)
		b.lim.SetBurstAt(time.Time{}, binRate*unprovenSeconds)
		b.filled = true
	}
	return b, mu
}

// take takes from a bin and returns how long to wait if it has not enough.
func (a *binArray) take(hash uint64, cost int, now time.Time) (ok bool, wait time.Duration) {
	b, mu := a.lock(hash)
	defer mu.Unlock()
	cost = min(cost, b.lim.Burst())
	if b.lim.AllowN(now, cost) {
		return true, 0
	}
	return false, waitFor(&b.lim, float64(cost), now)
}

// note counts how a request ended, at whatever level.
func (a *binArray) note(hash uint64, allowed bool) {
	b, mu := a.lock(hash)
	defer mu.Unlock()
	if b.seen == 32 {
		b.seen, b.refused = b.seen/2, b.refused/2
	}
	b.seen++
	if !allowed {
		b.refused++
	}
}

// mostlyAllowed tells that at least half of a bin's requests were allowed.
func (a *binArray) mostlyAllowed(hash uint64) bool {
	b, mu := a.lock(hash)
	defer mu.Unlock()
	return 2*b.refused <= b.seen
}
