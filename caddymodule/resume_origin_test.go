// SPDX-License-Identifier: Apache-2.0

// Origins for the tests of resume: they have a version of something large and
// break off each answer somewhere.

package caddymodule_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// The ways to break off an answer.
const (
	cutReset = iota
	cutClose
	cutStall
)

// cutter is an origin. Its fields are set before it is started.
type cutter struct {
	name         string
	content      []byte
	etag, coding string
	modified     time.Time
	noRanges     bool
	chunked      bool
	version      int // of HTTP: 1 if it is 0
	// cut says after how many bytes the n-th answer breaks off, from 1, and how;
	// negative: not at all.
	cut func(n int64) (after, how int)
	// edit, if set, sees the answer first.
	edit func(w http.ResponseWriter, r *http.Request)

	answers atomic.Int64
	ranges  atomic.Int64
	sent    atomic.Int64
	addr    string
}

func (c *cutter) start(tb testing.TB) *cutter {
	tb.Helper()
	if c.version == 3 {
		return c.startHTTP3(tb)
	}
	srv := httptest.NewUnstartedServer(c)
	if srv.EnableHTTP2 = c.version == 2; c.version == 2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	c.addr = srv.Listener.Addr().String()
	tb.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return c
}

func (c *cutter) startHTTP3(tb testing.TB) *cutter {
	tb.Helper()
	c.addr = startHTTP3(tb, c)
	return c
}

// startHTTP3 runs an origin that speaks HTTP/3, and returns its address.
func startHTTP3(tb testing.TB, h http.Handler) string {
	tb.Helper()
	secure := httptest.NewTLSServer(nil) // for its certificate
	secure.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: secure.TLS.Certificates})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(udp) })
	tb.Cleanup(func() {
		_ = srv.Close()
		_ = udp.Close()
		serving.Wait()
	})
	return udp.LocalAddr().String()
}

// reached are the addresses of origins and the options for what they speak.
func reached(origins []*cutter) (list, options string) {
	switch list = addrs(origins); origins[0].version {
	case 2:
		return "https://" + strings.ReplaceAll(list, " ", " https://"), "transport http {\ntls_insecure_skip_verify\n}"
	case 3:
		return "https://" + strings.ReplaceAll(list, " ", " https://"), "transport http {\nversions 3\ntls_insecure_skip_verify\n}"
	}
	return list, ""
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := c.answers.Add(1)
	if r.Header.Get("Range") != "" {
		c.ranges.Add(1)
	}
	h := w.Header()
	h.Set("X-Origin", c.name)
	h.Set("Content-Type", "application/octet-stream")
	if c.etag != "" {
		h.Set("ETag", c.etag)
	}
	if c.coding != "" {
		h.Set("Content-Encoding", c.coding)
	}
	if c.edit != nil {
		c.edit(w, r)
	}
	if c.noRanges {
		r.Header.Del("Range")
	}
	after, how := -1, 0
	if c.cut != nil {
		after, how = c.cut(n)
	}
	bw := &breakingWriter{ResponseWriter: w, r: r, c: c, left: after, how: how}
	switch {
	case c.chunked:
		for p := c.content; len(p) > 0; {
			k, _ := bw.Write(p[:min(len(p), 32<<10)])
			p = p[k:]
			_ = http.NewResponseController(w).Flush()
		}
	default:
		if c.coding != "" && r.Header.Get("Range") == "" { // ServeContent leaves the length out then
			h.Set("Content-Length", fmt.Sprint(len(c.content)))
		}
		http.ServeContent(bw, r, "", c.modified, bytes.NewReader(c.content))
	}
}

// breakingWriter breaks off after some bytes; never if left is negative.
type breakingWriter struct {
	http.ResponseWriter
	r    *http.Request
	c    *cutter
	left int
	how  int
}

func (b *breakingWriter) Write(p []byte) (int, error) {
	if b.left < 0 || len(p) < b.left {
		if b.left >= 0 {
			b.left -= len(p)
		}
		n, err := b.ResponseWriter.Write(p)
		b.c.sent.Add(int64(n))
		return n, err
	}
	n, _ := b.ResponseWriter.Write(p[:b.left])
	b.c.sent.Add(int64(n))
	_ = http.NewResponseController(b.ResponseWriter).Flush()
	switch b.how {
	case cutStall:
		<-b.r.Context().Done()
	case cutReset:
		if conn, _, err := http.NewResponseController(b.ResponseWriter).Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

// everyAnswer breaks off each answer after from to to bytes, in turn in each way
// that is given.
func everyAnswer(from, to int, ways ...int) func(int64) (int, int) {
	return func(n int64) (int, int) {
		return from + rand.IntN(to-from+1), ways[int(n)%len(ways)]
	}
}

// rotated begins ways with the i-th, so that few answers show all of them.
func rotated(i int, ways ...int) []int {
	return append(ways[i%len(ways):len(ways):len(ways)], ways[:i%len(ways)]...)
}

// addrs are the addresses of origins, for a directive.
func addrs(origins []*cutter) string {
	var all []string
	for _, o := range origins {
		all = append(all, o.addr)
	}
	return join(all...)
}
