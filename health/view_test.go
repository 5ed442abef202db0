// SPDX-License-Identifier: Apache-2.0

// Views of a pool that come, change and go.

package health

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestSyncKeepsWhatIsKnown(t *testing.T) {
	r := newRig(t, 3)
	r.failUntilOutFrom(50)
	next := r.Pool().View(DefaultEjectPolicy()) // a reload: the new one comes first
	if events := next.Sync(simOrigins(4), r.now()); len(events) != 0 {
		t.Errorf("got %+v, want nothing to change", events)
	}
	r.Close()
	r.Close()
	if got := next.Standing(r.now()); got[0].State != Ejected || got[0].FailureRate == 0 || got[3].State != Healthy {
		t.Errorf("after a reload: got %+v, want host 0 ejected still and host 3 new", got)
	}
	if r.pool.active != 4 || r.pool.out != 1 {
		t.Errorf("got %d active and %d out, want 4 and 1", r.pool.active, r.pool.out)
	}
}

func TestSyncToFewerLetsSomeReturn(t *testing.T) {
	r := newRig(t, 4)
	r.see(0, Outcome{Fault: brokenFault()})
	r.wait(time.Second)
	r.see(1, Outcome{Fault: brokenFault()})
	first := r.host(0)
	if second := r.host(1); second.until.Load() < first.until.Load() {
		first = second
	}
	events := r.Sync(simOrigins(2), r.now())
	if e := wantOne(t, events, Ejected, Healthy, ReasonMaxShare); e.Addr != first.Addr() {
		t.Errorf("got the return of %s, want of %s, whose time is over first", e.Addr, first.Addr())
	}
	events = r.Sync(simOrigins(1), r.now())
	if r.host(0).State() != Healthy {
		t.Errorf("got %+v, want the single origin healthy", events)
	}
}

// A reload to fewer origins: as the new view comes, the old one still has them
// all, and as that closes nobody is told of anything.
func TestReloadToFewerLetsSomeReturn(t *testing.T) {
	r := newRig(t, 4)
	r.see(0, Outcome{Fault: brokenFault()})
	r.wait(time.Second)
	r.see(1, Outcome{Fault: brokenFault()})
	next := r.Pool().View(DefaultEjectPolicy())
	if events := next.Sync(simOrigins(3), r.now()); len(events) != 0 {
		t.Errorf("got %+v, want nothing to change while the old view is open", events)
	}
	r.Close()
	events := next.Observe((*next.origins.Load())[2].m, Outcome{}, r.now())
	wantOne(t, events, Ejected, Healthy, ReasonMaxShare)
	if r.pool.out != 1 || r.pool.active != 3 {
		t.Errorf("got %d out of %d, want 1 of 3", r.pool.out, r.pool.active)
	}
}

func TestSyncRemembersWhatComesBack(t *testing.T) {
	r := newRig(t, 4)
	r.see(3, Outcome{Fault: brokenFault()})
	r.Sync(simOrigins(3), r.now())
	if r.pool.out != 0 || r.pool.active != 3 {
		t.Errorf("without host 3: got %d out of %d, want 0 of 3", r.pool.out, r.pool.active)
	}
	r.Sync(simOrigins(4), r.now())
	if r.wantState(3, Ejected); r.pool.out != 1 {
		t.Errorf("with host 3 again: got %d out, want 1", r.pool.out)
	}
}

func TestSameAddressTwice(t *testing.T) {
	r := newRig(t, 0)
	r.Sync([]Origin{{Addr: "a:1"}, {Addr: "a:1"}}, r.now())
	if r.see(0, Outcome{Fault: brokenFault()}); r.host(1).State() != Healthy || r.pool.active != 1 {
		t.Errorf("got %s of %d origins, want one origin, which is never ejected", r.host(1).State(), r.pool.active)
	}
}

func TestLateOutcomeOfAnOriginThatWasRemoved(t *testing.T) {
	r := newRig(t, 3)
	gone := r.host(2)
	r.Sync(simOrigins(2), r.now())
	if events := r.Observe(gone, Outcome{Fault: brokenFault()}, r.now()); len(events) != 0 || r.pool.out != 0 {
		t.Errorf("got %+v and %d out, want nothing", events, r.pool.out)
	}
}

func TestPoolForgetsTheOldestIdleOrigin(t *testing.T) {
	r := newRig(t, 1)
	names := func(from, to int) (origins []Origin) {
		for i := from; i < to; i++ {
			origins = append(origins, Origin{Addr: fmt.Sprintf("h%d:80", i)})
		}
		return origins
	}
	r.Sync(names(0, MaxMembers), r.now())
	r.wait(time.Second)
	r.see(0, Outcome{}) // the first is the latest now
	first := r.host(0)
	r.Sync(names(1, MaxMembers), r.now()) // all but the first, which is idle
	second := r.Pool().Lookup("h1:80")
	r.Sync(names(2, MaxMembers+1), r.now())
	if n := r.pool.Len(); n != MaxMembers {
		t.Errorf("got %d origins, want %d", n, MaxMembers)
	}
	if r.Pool().Lookup("h0:80") != nil || r.Pool().Lookup("h1:80") != second || first.refs != 0 {
		t.Error("want the idle origin forgotten, and the one that the view had until now kept")
	}
	r.Sync(names(0, MaxMembers+2), r.now()) // more than fit: two are unknown
	if n := r.pool.Len(); n != MaxMembers {
		t.Errorf("got %d origins, want %d", n, MaxMembers)
	}
	if c, ok := r.Pick(Request{}, r.now()); !ok {
		t.Errorf("got %+v, want a choice", c)
	}
}

func TestAdd(t *testing.T) {
	r := newRig(t, 2)
	a, _ := r.Add("10.0.0.1:80", r.now())
	if a != r.host(1) {
		t.Error("an origin of the configuration was added again")
	}
	b, _ := r.Add("b:1", r.now())
	if again, _ := r.Add("b:1", r.now()); again != b || r.host(2) != b || r.pool.active != 3 {
		t.Error("want an added origin to be the same the next time, and to count")
	}
	r.wait(addedIdle)
	c, _ := r.Add("c:1", r.now())
	if r.host(2) != c || r.pool.active != 3 {
		t.Errorf("got %d origins, want the idle one to have gone", r.pool.active)
	}
	c.Begin()
	r.wait(addedIdle)
	r.Add("d:1", r.now())
	if r.host(2) != c || r.pool.active != 4 {
		t.Errorf("got %d origins, want the busy one to have stayed", r.pool.active)
	}
}

func TestAddIsBounded(t *testing.T) {
	r := newRig(t, 1)
	r.Sync([]Origin{{Addr: "fixed:1"}}, r.now())
	origins := make([]entry, 0, MaxMembers)
	origins = append(origins, (*r.origins.Load())[0])
	for i := range MaxMembers - 1 {
		m := newMember(fmt.Sprint(i), time.Duration(i))
		origins = append(origins, entry{m: m, weight: 1, added: true})
	}
	r.origins.Store(&origins)
	r.Add("one more:1", r.now())
	list := *r.origins.Load()
	if n := MaxMembers - MaxMembers/evictPart + 1; len(list) < n-1 || len(list) > n+1 {
		t.Errorf("got %d origins, want about %d", len(list), n)
	}
	if first := MaxMembers/evictPart - 1; list[0].m.Addr() != "fixed:1" || list[1].m.Addr() < fmt.Sprint(first) {
		t.Errorf("got origins from %s and %s on, want the oldest added ones to have gone", list[0].m.Addr(), list[1].m.Addr())
	}
}

// TestViewsInParallel is for the race detector: sites that share a pool reload
// while requests run and an operator gives orders.
func TestViewsInParallel(t *testing.T) {
	p := NewPool(simBegin)
	v := p.View(DefaultEjectPolicy())
	v.Sync(simOrigins(6), simBegin)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() { traffic(v, g) })
	}
	wg.Go(func() {
		for i := range 300 {
			now := simBegin.Add(time.Duration(i) * 50 * time.Millisecond)
			other := p.View(DefaultEjectPolicy())
			other.Sync(simOrigins(2+i%6), now)
			m, _ := other.Add(fmt.Sprint("extra", i%3), now)
			other.Drain(m, now)
			other.Probed(p.Lookup("10.0.0.1:80"), PhaseDial, now)
			other.Standing(now)
			other.Restore(m, now)
			other.Close()
			runtime.Gosched()
		}
	})
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active != 6 || p.out > 3 {
		t.Errorf("got %d active and %d out, want 6 and at most 3", p.active, p.out)
	}
}

func traffic(v *View, g int) {
	for i := range 3000 {
		now := simBegin.Add(time.Duration(i) * 5 * time.Millisecond)
		c, ok := v.Pick(Request{Trial: i%2 == 0}, now)
		if !ok {
			continue
		}
		c.Member.Begin()
		o := Outcome{Trial: c.Trial, TTFB: time.Duration(i%50) * time.Millisecond, Conn: uint64(i)}
		if c.Index < 2 && (i+g)%4 != 0 {
			o.Fault = fault(PhaseDial)
		}
		v.Observe(c.Member, o, now)
		c.Member.End()
	}
}

// Requests outlast their configuration, and go on choosing among its origins.
func TestClosedViewStillChooses(t *testing.T) {
	r := newRig(t, 3)
	r.Close()
	r.Close()
	if c, ok := r.Pick(Request{}, r.now()); !ok || c.Member == nil {
		t.Errorf("got %+v, %v, want an origin", c, ok)
	}
	if r.pool.active != 0 {
		t.Errorf("got %d origins in use after two calls of Close, want 0", r.pool.active)
	}
}

// Origins that there is no room for are used, and never ejected.
func TestOriginsWithoutRoom(t *testing.T) {
	r := newRig(t, MaxMembers+1)
	last := r.host(MaxMembers)
	if events := r.Observe(last, Outcome{Fault: brokenFault()}, r.now()); len(events) != 0 || last.State() != Healthy {
		t.Errorf("got %+v and state %v, want nothing to change", events, last.State())
	}
	for i := range MaxMembers {
		r.Drain(r.host(i), r.now())
	}
	if c, ok := r.Pick(Request{}, r.now()); !ok || c.Member != last {
		t.Errorf("got %+v, %v, want the only origin that is not draining", c, ok)
	}
}

func TestAddOfWhatIsNoAddress(t *testing.T) {
	for _, addr := range []string{"a\xffb:80", "a\x00b:80", "a\r\nb:80", "a\u0085b:80"} {
		r := newRig(t, 2)
		m, events := r.Add(addr, r.now())
		if m == nil || m.Addr() != addr || len(events) != 0 || r.Pool().Len() != 2 {
			t.Errorf("%q: got %v, %+v and %d origins, want an origin that is not kept", addr, m, events, r.Pool().Len())
		}
		for range 50 {
			r.Observe(m, Outcome{Fault: fault(PhaseDial)}, r.now())
		}
		if got := r.pool.faults.total(); got.all != 0 {
			t.Errorf("%q: got %d outcomes of the pool, want none", addr, got.all/unit)
		}
	}
}
