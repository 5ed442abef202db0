// SPDX-License-Identifier: Apache-2.0

// What others do, under the same load as BenchmarkDecide: a limiter for each
// address in a map that grows, and in one that forgets the longest unused.

package ratelimit

import (
	"container/list"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func BenchmarkCompare(b *testing.B) {
	for name, create := range map[string]func() allower{
		"map": func() allower { return &mapLimiters{all: make(map[netip.Addr]*rate.Limiter)} },
		"lru": func() allower {
			return &lruLimiters{all: make(map[netip.Addr]*list.Element), order: list.New()}
		},
	} {
		for _, n := range benchmarkKeys() {
			b.Run(fmt.Sprintf("%s/keys=%d", name, n), func(b *testing.B) {
				l := create()
				for k := range n {
					l.allow(addrOf(k), simStart)
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					random := rand.New(rand.NewPCG(rand.Uint64(), 1))
					for pb.Next() {
						l.allow(addrOf(random.IntN(n)), time.Now())
					}
				})
			})
		}
	}
}

type allower interface {
	allow(addr netip.Addr, now time.Time) bool
}

// mapLimiters has no bound.
type mapLimiters struct {
	mu  sync.Mutex
	all map[netip.Addr]*rate.Limiter
}

func (m *mapLimiters) allow(addr netip.Addr, now time.Time) bool {
	m.mu.Lock()
	l := m.all[addr]
	if l == nil {
		l = rate.NewLimiter(DefaultClientRate, DefaultClientBurst)
		m.all[addr] = l
	}
	m.mu.Unlock()
	return l.AllowN(now, 1)
}

// lruLimiters keeps as many as a zone has identities. Whoever goes round through
// more keys gets a full bucket each time.
type lruLimiters struct {
	mu    sync.Mutex
	all   map[netip.Addr]*list.Element
	order *list.List
}

type lruEntry struct {
	addr netip.Addr
	lim  *rate.Limiter
}

func (m *lruLimiters) allow(addr netip.Addr, now time.Time) bool {
	m.mu.Lock()
	e := m.all[addr]
	if e == nil {
		if m.order.Len() >= DefaultIdentities {
			last := m.order.Back()
			delete(m.all, last.Value.(*lruEntry).addr)
			m.order.Remove(last)
		}
		e = m.order.PushFront(&lruEntry{addr, rate.NewLimiter(DefaultClientRate, DefaultClientBurst)})
		m.all[addr] = e
	} else {
		m.order.MoveToFront(e)
	}
	l := e.Value.(*lruEntry).lim
	m.mu.Unlock()
	return l.AllowN(now, 1)
}
