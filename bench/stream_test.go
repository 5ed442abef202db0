// SPDX-License-Identifier: Apache-2.0

// How late the first byte of a stream comes: through reset_guard and through
// reverse_proxy in turn, request by request.

package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// stream is one kind of traffic of which each part is waited for. first returns
// when the first byte after the header has come, and a function that ends it.
type stream struct {
	name  string
	h2    bool
	first func(tb testing.TB, c *http.Client, addr string) (end func())
}

var streams = []stream{
	{"server-sent events", false, get("/events")},
	{"chunked long poll", false, get("/poll")},
	{"websocket", false, webSocket},
	{"gRPC unary", true, call("/unary")},
	{"gRPC server stream", true, call("/server")},
	{"gRPC bidirectional", true, bidirectional},
}

// streaming is the origin of all of them: each sends one message at once, and
// goes on for as long as the client does.
func streaming(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	switch r.URL.Path {
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fallthrough
	case "/poll":
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = rc.Flush()
		<-r.Context().Done()
	case "/socket":
		if c, _, err := rc.Hijack(); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	default:
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush()
		message := make([]byte, len(frame))
		for {
			if _, err := io.ReadFull(r.Body, message); err != nil {
				break
			}
			_, _ = w.Write(message)
			_ = rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	}
}

// frame is a message of gRPC.
var frame = binary.BigEndian.AppendUint32([]byte{0}, 0)

// request sends one and reads the first byte of the answer's body.
func request(tb testing.TB, c *http.Client, req *http.Request) *http.Response {
	res, err := c.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	return res
}

func get(path string) func(testing.TB, *http.Client, string) func() {
	return func(tb testing.TB, c *http.Client, addr string) func() {
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			tb.Fatal(err)
		}
		return closing(request(tb, c, req))
	}
}

func closing(res *http.Response) func() { return func() { _ = res.Body.Close() } }

func grpc(tb testing.TB, addr, path string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+addr+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	return req
}

func call(path string) func(testing.TB, *http.Client, string) func() {
	return func(tb testing.TB, c *http.Client, addr string) func() {
		return closing(request(tb, c, grpc(tb, addr, path, strings.NewReader(string(frame)))))
	}
}

// bidirectional goes on sending after the first message has come back.
func bidirectional(tb testing.TB, c *http.Client, addr string) func() {
	r, w := io.Pipe()
	go func() { _, _ = w.Write(frame) }()
	res := request(tb, c, grpc(tb, addr, "/bidirectional", r))
	return func() {
		_ = w.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}

func webSocket(tb testing.TB, _ *http.Client, addr string) func() {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", addr)
	r := bufio.NewReader(c)
	if _, err := http.ReadResponse(r, nil); err != nil {
		tb.Fatal(err)
	}
	_, _ = io.WriteString(c, "x")
	if _, err := r.ReadByte(); err != nil {
		tb.Fatal(err)
	}
	return func() { _ = c.Close() }
}

// measureStreams alternates between the proxies and returns, for each kind, the
// median times to the first byte.
func measureStreams(tb testing.TB, kind stream, turns int) (stock, guard time.Duration) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(streaming))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	tb.Cleanup(srv.Close)
	tr := &http.Transport{DisableCompression: true}
	upstream := srv.Listener.Addr().String()
	if kind.h2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
		upstream = "h2c://" + upstream
	}
	tb.Cleanup(tr.CloseIdleConnections)
	options := "" // as they are measured
	if !long() {
		options = unlimited
	}
	addrs := sites(tb, upstream, options)
	client := &http.Client{Transport: tr}
	var times [2][]time.Duration
	for turn := range turns + 10 {
		for k := range 2 {
			i := (turn + k) % 2
			began := time.Now()
			end := kind.first(tb, client, addrs[i])
			took := time.Since(began)
			end()
			if turn >= 10 { // after warming up
				times[i] = append(times[i], took)
			}
		}
	}
	return median(times[0]), median(times[1])
}

// TestFirstByteOfStreams: a stream that were held would be 25 ms late; the long
// form allows 1 ms.
func TestFirstByteOfStreams(t *testing.T) {
	turns, most := 40, 10*time.Millisecond
	if long() {
		turns, most = 2000, time.Millisecond
	}
	for _, kind := range streams {
		t.Run(kind.name, func(t *testing.T) {
			stock, guard := measureStreams(t, kind, turns)
			t.Logf("first byte after %v through reverse_proxy, %v through reset_guard: %v more", stock, guard, guard-stock)
			if guard-stock > most {
				t.Errorf("got %v more, want %v at the most", guard-stock, most)
			}
		})
	}
}

// BenchmarkFirstByte reports the same as figures.
func BenchmarkFirstByte(b *testing.B) {
	for _, kind := range streams {
		b.Run(strings.ReplaceAll(kind.name, " ", "-"), func(b *testing.B) {
			stock, guard := measureStreams(b, kind, max(20, b.N))
			b.ReportMetric(float64(stock.Microseconds()), "stock-µs")
			b.ReportMetric(float64(guard.Microseconds()), "guard-µs")
			b.ReportMetric(float64((guard - stock).Microseconds()), "more-µs")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
