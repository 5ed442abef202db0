// SPDX-License-Identifier: Apache-2.0

// What downloads that could be resumed cost in memory while they are under way.

package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// downloads are so many at the same time, of so many bytes each.
type downloads struct {
	n    int
	size int64
}

// pattern is sent over and over, so that the origin keeps nothing.
var pattern [32 << 10]byte

// origin answers GETs with something that can be resumed.
func (d downloads) origin(tb testing.TB) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(d.size, 10))
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"v1"`)
		for left := d.size; left > 0; {
			n, err := w.Write(pattern[:min(left, int64(len(pattern)))])
			if err != nil {
				return
			}
			left -= int64(n)
		}
	}))
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// heap is what is alive in the middle of all downloads, and the most that was in
// use at any time, garbage included, for each download.
type heap struct{ alive, peak int64 }

// measure runs all downloads through the proxy at addr. In the middle they wait
// for each other, and what is alive then is counted.
func (d downloads) measure(tb testing.TB, addr string) heap {
	tb.Helper()
	debug.FreeOSMemory()
	before := inUse()
	var half, done sync.WaitGroup
	var lost atomic.Int64
	half.Add(d.n)
	goOn := make(chan struct{})
	for range d.n {
		done.Go(func() {
			if err := d.one(addr, &half, goOn); err != nil {
				lost.Add(1)
				tb.Errorf("downloading: %v", err)
			}
		})
	}
	var peak atomic.Int64
	stop := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			peak.Store(max(peak.Load(), inUse()))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	half.Wait()
	runtime.GC()
	alive := inUse()
	close(goOn)
	done.Wait()
	close(stop)
	sampler.Wait()
	return heap{(alive - before) / int64(d.n), (peak.Load() - before) / int64(d.n)}
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// one downloads, and waits in the middle.
func (d downloads) one(addr string, half *sync.WaitGroup, goOn <-chan struct{}) error {
	halfway := sync.OnceFunc(half.Done)
	defer halfway()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s", res.Status)
	}
	got, err := io.CopyN(io.Discard, res.Body, d.size/2)
	if err != nil {
		return err
	}
	halfway()
	<-goOn
	rest, err := io.Copy(io.Discard, res.Body)
	if err == nil && got+rest != d.size {
		err = fmt.Errorf("got %d bytes of %d", got+rest, d.size)
	}
	return err
}

// mostMore is what resume may cost each download.
const mostMore = 64 << 10

// TestMemoryOfDownloads runs 500 downloads of 64 MiB in the long form.
func TestMemoryOfDownloads(t *testing.T) {
	d := downloads{n: 60, size: 8 << 20}
	if long() {
		d = downloads{n: 500, size: 64 << 20}
	}
	addrs := sites(t, d.origin(t), unlimited)
	warm := downloads{n: 10, size: 1 << 20}
	for _, addr := range addrs {
		warm.size = d.size
		warm.measure(t, addr)
	}
	var h [2]heap
	for i, addr := range addrs {
		h[i] = d.measure(t, addr)
		t.Logf("%s: %d downloads of %d MiB, each %d KiB alive, %d KiB at the peak", directives[i], d.n, d.size>>20, h[i].alive>>10, h[i].peak>>10)
	}
	if more := h[1].alive - h[0].alive; more > mostMore {
		t.Errorf("got %d KiB alive more for each download, want %d at the most", more>>10, mostMore>>10)
	}
	if more := h[1].peak - h[0].peak; long() && more > mostMore { // of few downloads it is mostly garbage
		t.Errorf("got %d KiB more for each download at the peak, want %d at the most", more>>10, mostMore>>10)
	}
}
