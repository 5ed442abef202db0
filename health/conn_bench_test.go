// SPDX-License-Identifier: Apache-2.0

// What watching costs.

package health

import (
	"net"
	"testing"
	"time"
)

func TestConnDoesNotAllocate(t *testing.T) {
	raw, peer := tcpPair(t)
	c := WatchConn(raw)
	out, in := make([]byte, 512), make([]byte, 512)
	failed := error(nil)
	exchange := func() {
		c.AwaitHeader()
		for _, step := range []func() (int, error){
			func() (int, error) { return c.Write(out) },
			func() (int, error) { return peer.Read(in) },
			func() (int, error) { return peer.Write(out) },
			func() (int, error) { return c.Read(in) },
		} {
			if _, err := step(); err != nil {
				failed = err
			}
		}
	}
	n := testing.AllocsPerRun(1000, exchange)
	if failed != nil {
		t.Fatal(failed)
	}
	if n != 0 {
		t.Errorf("writing and reading: got %v allocations, want 0", n)
	}
}

// BenchmarkConn is a request and an answer over loopback, bare and watched in
// turns, so that both see the same machine. The ratio is what matters.
func BenchmarkConn(b *testing.B) {
	raw, peer := tcpPair(b)
	c := WatchConn(raw)
	b.ReportAllocs()
	var bare, watched time.Duration
	for b.Loop() {
		bare += exchangeTime(b, raw, peer)
		c.AwaitHeader()
		watched += exchangeTime(b, c, peer)
	}
	b.ReportMetric(float64(watched)/float64(bare), "watched/bare")
}

var benchRequest, benchAnswer [512]byte

func exchangeTime(b *testing.B, c net.Conn, peer net.Conn) time.Duration {
	began := time.Now()
	for _, step := range [2]struct{ from, to net.Conn }{{c, peer}, {peer, c}} {
		if _, err := step.from.Write(benchRequest[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := step.to.Read(benchAnswer[:]); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}
