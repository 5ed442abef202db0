// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"io"
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

// BenchmarkSpoolCopy copies a body through a spool as net/http's transport does,
// and reports the time as a multiple of what the same copy takes without one.
// The source and the sink cost next to nothing, which makes the multiple as
// high as it can be: a network's share of the time is the same on both sides.
func BenchmarkSpoolCopy(b *testing.B) {
	cfg := SpoolConfig{Memory: 1 << 20, File: 64 << 20, Dir: b.TempDir()}
	for _, size := range []int64{200, 64 << 10, 64 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			buf := make([]byte, spoolChunk)
			b.SetBytes(size)
			b.ReportAllocs()
			var spooled time.Duration
			for b.Loop() {
				start := time.Now()
				s := NewSpool(&spoolZeros{size}, nil, cfg)
				r, _ := s.Reader()
				spoolCopy(b, r, buf)
				s.Close()
				spooled += time.Since(start)
			}
			b.StopTimer()
			start := time.Now()
			for range b.N {
				spoolCopy(b, &spoolZeros{size}, buf)
			}
			b.ReportMetric(float64(spooled)/float64(time.Since(start)), "x-io.Copy")
		})
	}
}

func spoolCopy(b *testing.B, r io.Reader, buf []byte) {
	if _, err := io.CopyBuffer(spoolSlowWriter{}, r, buf); err != nil {
		b.Fatal(err)
	}
}
