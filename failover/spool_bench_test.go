// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// spoolZeros is a body of the given length that costs nearly nothing to read.
type spoolZeros struct{ left int64 }

func (z *spoolZeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func (*spoolZeros) Close() error { return nil }

// A body that nobody reads costs the spool itself. Reading costs 16 bytes for each
// read of the source, to start its goroutine, and nothing else: the first reader
// is part of the spool, and memory comes from pools.
func TestSpoolAllocations(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector makes pools forget")
	}
	src, trailer, p := &spoolZeros{}, http.Header{}, make([]byte, 512)
	cfg := SpoolConfig{Memory: 1 << 20, File: 64 << 20}
	for _, tc := range []struct {
		name string
		read int64
		want float64
	}{
		{"never read", -1, 1},
		{"empty", 0, 1 + 1},
		{"200 bytes", 200, 1 + 2},   // the bytes, io.EOF
		{"64 KiB", 64 << 10, 1 + 4}, // 4 KiB, 32, 28, io.EOF
	} {
		got := testing.AllocsPerRun(1000, func() {
			s := NewSpool(src, trailer, cfg)
			defer s.Close()
			if tc.read < 0 {
				return
			}
			src.left = tc.read
			r, _ := s.Reader()
			for err := error(nil); err == nil; {
				_, err = r.Read(p)
			}
			_ = r.Close()
		})
		if got > tc.want+0.1 { // a garbage collection empties the pools
			t.Errorf("%s: got %v allocations, want %v", tc.name, got, tc.want)
		}
	}
}

// BenchmarkSpoolCopy copies bodies that come over a loopback connection as
// net/http's transport does, to a sink that costs nothing, and reports the time
// as a multiple of what the same copy takes without a spool.
func BenchmarkSpoolCopy(b *testing.B) {
	cfg := SpoolConfig{Memory: 1 << 20, File: 64 << 20, Dir: b.TempDir()}
	for _, size := range []int64{200, 64 << 10, 64 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			next := spoolClient(b, size)
			buf := make([]byte, spoolChunk)
			b.SetBytes(size)
			b.ReportAllocs()
			var spooled, plain time.Duration
			for b.Loop() {
				start := time.Now()
				s := NewSpool(next(), nil, cfg)
				r, _ := s.Reader()
				spoolCopy(b, r, buf)
				s.Close()
				spooled += time.Since(start)
				b.StopTimer()
				start = time.Now()
				spoolCopy(b, next(), buf)
				plain += time.Since(start)
				b.StartTimer()
			}
			b.ReportMetric(float64(spooled)/float64(plain), "x-io.Copy")
		})
	}
}

// spoolClient returns a function that lets the other end of a connection send
// size bytes, and gives the body that they are.
func spoolClient(b *testing.B, size int64) func() io.ReadCloser {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _, _ = l.Close(), conn.Close(), peer.Close() })
	go func() {
		buf := make([]byte, spoolChunk)
		for turn := make([]byte, 1); ; {
			if _, err := peer.Read(turn); err != nil {
				return
			}
			_, _ = io.CopyBuffer(spoolHide{peer}, &spoolZeros{size}, buf)
		}
	}()
	return func() io.ReadCloser {
		_, _ = conn.Write([]byte{1})
		return io.NopCloser(io.LimitReader(conn, size))
	}
}

// spoolHide hides a writer's ReadFrom.
type spoolHide struct{ io.Writer }

func spoolCopy(b *testing.B, r io.Reader, buf []byte) {
	if _, err := io.CopyBuffer(spoolHide{io.Discard}, r, buf); err != nil {
		b.Fatal(err)
	}
}
