// SPDX-License-Identifier: Apache-2.0

// Which connections of clients are closed when descriptors are short.

package caddymodule

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// fakeConn notes that it was closed.
type fakeConn struct {
	net.Conn
	closed bool
}

func (c *fakeConn) Close() error {
	c.closed = true
	return nil
}

func TestIdleConnectionsAreClosedOldestFirst(t *testing.T) {
	conns := newClientConns(make(chan struct{}, 1))
	all := make([]*fakeConn, 8)
	for i := range all {
		all[i] = new(fakeConn)
		conns.changed(all[i], http.StateNew)
	}
	for _, i := range []int{3, 1, 0, 2, 4} { // 0 to 3 wait, in this order, and 4 is answered
		conns.changed(all[i], http.StateActive)
	}
	for since, i := range []int{3, 1, 0, 2} {
		conns.changed(all[i], http.StateIdle)
		v, _ := conns.conns.Load(all[i])
		v.(*clientConn).waits.Store(int64(since + 1)) // the clocks of some systems are too coarse
	}
	conns.changed(all[7], http.StateClosed)

	for _, step := range []struct {
		name string
		in   time.Duration
		want []int // all that are closed by then
	}{
		{"half of four", 0, []int{3, 1}},
		{"half of two", 0, []int{3, 1, 0}},
		{"the last one", 0, []int{3, 1, 0, 2}},
		{"none waits", 0, []int{3, 1, 0, 2}},
		{"half of the unheard", unheard + time.Second, []int{3, 1, 0, 2, 5}},
		{"the other one", unheard + time.Second, []int{3, 1, 0, 2, 5, 6}},
		{"not the one with a request, nor the one that has ended", time.Hour, []int{3, 1, 0, 2, 5, 6}},
	} {
		conns.closeIdle(time.Now().Add(step.in))
		closed := 0
		for _, c := range all {
			if c.closed {
				closed++
			}
		}
		if closed != len(step.want) {
			t.Errorf("%s: got %d closed, want %d", step.name, closed, len(step.want))
		}
		for _, i := range step.want[:min(4, len(step.want))] {
			if !all[i].closed {
				t.Errorf("%s: connection %d is open", step.name, i)
			}
		}
	}
	if all[4].closed || all[7].closed {
		t.Error("a connection was closed that does not wait")
	}
}

func TestManyConnectionsAskForASample(t *testing.T) {
	crowd := make(chan struct{}, 1)
	conns := newClientConns(crowd)
	conns.every = 4
	for i := range 9 {
		if got := len(crowd); got != min(1, i/4) {
			t.Errorf("after %d: got %d samples asked for", i, got)
		}
		conns.changed(new(fakeConn), http.StateNew)
	}
}

func TestConnectionStatesDoNotAllocate(t *testing.T) {
	conns := newClientConns(make(chan struct{}, 1))
	c := new(fakeConn)
	conns.changed(c, http.StateNew)
	if n := testing.AllocsPerRun(100, func() { conns.changed(c, http.StateActive); conns.changed(c, http.StateIdle) }); n != 0 {
		t.Errorf("a request: got %v allocations, want 0", n)
	}
}

// BenchmarkConnectionStates is what each request costs.
func BenchmarkConnectionStates(b *testing.B) {
	conns := newClientConns(make(chan struct{}, 1))
	c := new(fakeConn)
	conns.changed(c, http.StateNew)
	b.ReportAllocs()
	for b.Loop() {
		conns.changed(c, http.StateActive)
		conns.changed(c, http.StateIdle)
	}
}
