// SPDX-License-Identifier: Apache-2.0

// Descriptors: connections that wait for requests give theirs up when they run short.

package caddymodule

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/health/pressure"
)

// shortFiles is the pressure of descriptors at which idle connections are closed:
// at the default thresholds, when 80 % are in use. That is long before any request
// is refused, because an idle connection is the cheapest thing to go without.
const shortFiles = 0.3

// shortOfFiles tells that few descriptors are left.
func (a *App) shortOfFiles() bool {
	h := a.registry.host
	return max(h.Pressure(pressure.Files), h.Pressure(pressure.FileErrors)) >= shortFiles
}

// spare is what was closed to spare descriptors. It belongs to the goroutine that
// samples the pressure.
type spare struct {
	closed int // not yet told
	told   time.Time
}

// spareEvery bounds the lines that tell what was closed.
const spareEvery = 10 * time.Second

// spareFiles closes connections that wait for requests while descriptors are
// short: all those to upstreams, which the next request opens again, and half of
// the clients', those that have waited longest first. It is called with each
// sample, so that after a second a sixteenth is left at most, and hardly more is
// closed than it takes.
func (a *App) spareFiles(now time.Time) {
	if a.shortOfFiles() {
		for _, s := range a.order {
			if s.closeIdle != nil {
				s.closeIdle()
			}
		}
		for _, conns := range a.servers {
			a.spare.closed += conns.closeIdle(now)
		}
	}
	if a.spare.closed == 0 || now.Sub(a.spare.told) < spareEvery {
		return
	}
	a.health.logger.Warn("idle connections of clients were closed for want of file descriptors", zap.Int("closed", a.spare.closed),
		zap.String("hint", "Allow more descriptors (ulimit -n, LimitNOFILE of systemd), or let idle clients go sooner: idle_timeout of the server."))
	a.spare = spare{told: now}
}

// clientConns are a server's connections, from their beginning to their end.
// They are as many as there are descriptors at the most.
//
// Many new ones at a time may take all descriptors between two samples of the
// pressure. So whenever a thirty-second part of what is allowed has been opened
// another sample is asked for.
type clientConns struct {
	conns  sync.Map // of net.Conn to *clientConn
	opened atomic.Uint64
	every  uint64
	crowd  chan<- struct{}
}

// crowdInterval is the least time between such samples: each takes less than a
// tenth of a millisecond.
const crowdInterval = 5 * time.Millisecond

func newClientConns(crowd chan<- struct{}) *clientConns {
	every := pressure.FilesAllowed() / 32
	if every == 0 {
		every = 1024
	}
	return &clientConns{every: every, crowd: crowd}
}

// clientConn is since when a connection has waited for a request, in ns since
// 1970: 0 while it has one, and negative before its first.
type clientConn struct{ waits atomic.Int64 }

// closing stands for a connection that was closed.
const closing = 1<<63 - 1

// unheard is how long a connection may be without a request before it counts as
// waiting. The handshake falls into it. net/http waits as long when it shuts down.
const unheard = 5 * time.Second

// changed is called by the server in the goroutine that serves the connection,
// twice for each request: it neither locks nor allocates then.
func (c *clientConns) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		one := new(clientConn)
		one.waits.Store(-time.Now().UnixNano())
		c.conns.Store(conn, one)
		if c.opened.Add(1)%c.every == 0 {
			select {
			case c.crowd <- struct{}{}:
			default:
			}
		}
		return
	case http.StateHijacked, http.StateClosed:
		c.conns.Delete(conn)
		return
	}
	v, ok := c.conns.Load(conn)
	if !ok {
		return
	}
	if one := v.(*clientConn); state == http.StateIdle {
		one.waits.Store(time.Now().UnixNano())
	} else {
		one.waits.Store(0)
	}
}

// waitingConn is a connection that could be closed.
type waitingConn struct {
	net.Conn
	*clientConn
	state int64 // as it was read
	since int64
}

// closeIdle closes half of the connections that wait, at least one. It returns
// how many.
func (c *clientConns) closeIdle(now time.Time) (closed int) {
	waiting := c.waiting(now)
	slices.SortFunc(waiting, func(a, b waitingConn) int { return cmp.Compare(a.since, b.since) })
	for _, w := range waiting[:(len(waiting)+1)/2] {
		// A request may have come meanwhile.
		if w.waits.CompareAndSwap(w.state, closing) {
			_ = w.Close()
			closed++
		}
	}
	return closed
}

func (c *clientConns) waiting(now time.Time) (waiting []waitingConn) {
	c.conns.Range(func(k, v any) bool {
		one := v.(*clientConn)
		state := one.waits.Load()
		if state != 0 && state != closing && (state > 0 || now.UnixNano()+state > int64(unheard)) {
			waiting = append(waiting, waitingConn{k.(net.Conn), one, state, max(state, -state)})
		}
		return true
	})
	return waiting
}
