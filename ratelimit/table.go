// SPDX-License-Identifier: Apache-2.0

// A hash table of fixed size whose newcomers inherit the debts of those they
// displace.

package ratelimit

import (
	"sync"
	"time"
)

// resident is what a table holds.
type resident[V any] interface {
	*V
	// headroom is how little would be lost by forgetting the value: 1 if it is
	// as good as new, less the more it is in debt.
	headroom(now time.Time) float64
}

// table is set-associative: a key has its place in one set of a few slots. Who
// cycles through more keys than there are slots gets used buckets, not full
// ones; forgetting by age instead would give every key a fresh one each round.
// Each set has one lock, which several share. It takes memory from its first key
// on, so that a table which few use is small.
type table[K comparable, V any, P resident[V]] struct {
	ways  int
	sets  [][]slot[K, V] // a power of two; nil: nobody had a place there
	locks [tableLocks]sync.Mutex
}

type slot[K comparable, V any] struct {
	key  K
	used bool
	val  V
}

const tableLocks = 1024

// origin is where a value came from.
type origin uint8

const (
	found origin = iota
	// fresh is a slot that nobody had.
	fresh
	// inherited is a slot whose former key is forgotten; the value is as it was.
	inherited
)

// newTable makes room for at least so many keys; n and ways are to be positive.
func newTable[K comparable, V any, P resident[V]](n, ways int) *table[K, V, P] {
	sets := 1
	for sets*ways < n {
		sets *= 2
	}
	return &table[K, V, P]{ways: ways, sets: make([][]slot[K, V], sets)}
}

// lock locks the set of a hash.
func (t *table[K, V, P]) lock(hash uint64) *sync.Mutex {
	mu := &t.locks[t.indexOf(hash)%tableLocks]
	mu.Lock()
	return mu
}

func (t *table[K, V, P]) indexOf(hash uint64) uint64 { return hash & uint64(len(t.sets)-1) }

func (t *table[K, V, P]) setLocked(hash uint64) []slot[K, V] { return t.sets[t.indexOf(hash)] }

// findLocked returns a key's value, nil if it has none.
func (t *table[K, V, P]) findLocked(hash uint64, key K) P {
	set := t.setLocked(hash)
	for i := range set {
		if s := &set[i]; s.used && s.key == key {
			return P(&s.val)
		}
	}
	return nil
}

// claimLocked returns a key's value, and makes one if it has none.
func (t *table[K, V, P]) claimLocked(hash uint64, key K, now time.Time) (P, origin) {
	if v := t.findLocked(hash, key); v != nil {
		return v, found
	}
	if i := t.indexOf(hash); t.sets[i] == nil {
		t.sets[i] = make([]slot[K, V], t.ways)
	}
	s := victimLocked[K, V, P](t.setLocked(hash), now)
	from := inherited
	if !s.used {
		from = fresh
	}
	s.key, s.used = key, true
	return P(&s.val), from
}

// victimLocked is an unused slot, or the one whose value is missed least.
func victimLocked[K comparable, V any, P resident[V]](set []slot[K, V], now time.Time) *slot[K, V] {
	var best *slot[K, V]
	most := 0.0
	for i := range set {
		s := &set[i]
		if !s.used {
			return s
		}
		if room := P(&s.val).headroom(now); best == nil || room > most {
			best, most = s, room
		}
	}
	return best
}

// each calls f with all values, one set locked at a time. f must not call the
// table.
func (t *table[K, V, P]) each(f func(key K, val P)) {
	for index := range t.sets {
		mu := t.lock(uint64(index))
		set := t.sets[index]
		for i := range set {
			if s := &set[i]; s.used {
				f(s.key, P(&s.val))
			}
		}
		mu.Unlock()
	}
}
