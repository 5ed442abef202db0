// SPDX-License-Identifier: Apache-2.0

// Streams: what an origin sends bit by bit reaches the client bit by bit, and
// the other way round. The guard may hold the start of a response back for some
// milliseconds, but never until more comes.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// drip is an origin that sends a part whenever it gets one.
type drip struct {
	header http.Header
	parts  chan string // closed at the end
}

func newDrip(header ...string) drip {
	d := drip{header: make(http.Header), parts: make(chan string)}
	for i := 0; i+1 < len(header); i += 2 {
		d.header.Set(header[i], header[i+1])
	}
	return d
}

func (d drip) serve(w http.ResponseWriter, r *http.Request) {
	for k, v := range d.header {
		w.Header()[k] = v
	}
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	for {
		select {
		case part, more := <-d.parts:
			if !more {
				return
			}
			_, _ = io.WriteString(w, part)
			_ = rc.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// follow requests the stream and lets a part be sent only when the one before
// has arrived.
func (d drip) follow(t *testing.T, client *http.Client, url string, parts []string, header ...string) {
	t.Helper()
	res, err := client.Do(newRequest(t, http.MethodGet, url, nil, header...))
	if err != nil {
		t.Fatalf("before the first part: %v", err)
	}
	defer res.Body.Close()
	for _, part := range parts {
		select {
		case d.parts <- part:
		case <-t.Context().Done():
			t.Fatal("the origin takes no more parts")
		}
		expect(t, "part", readFull(t, res.Body, len(part)), part)
	}
	close(d.parts)
	expect(t, "after the last part", readAll(t, res.Body), "")
}

var dripParts = []string{"data: one\n\n", "data: two\n\n", "data: three\n\n", "data: four\n\n"}

func TestStockStreams(t *testing.T) {
	length := strconv.Itoa(len(dripParts[0] + dripParts[1] + dripParts[2] + dripParts[3]))
	for _, c := range []struct {
		name    string
		options string
		header  []string // of the response
		request []string
	}{
		{name: "events", header: []string{"Content-Type", "text/event-stream"}},
		{name: "events with parameter", header: []string{"Content-Type", "text/event-stream; charset=utf-8"}},
		{name: "chunked", header: []string{"Content-Type", "text/plain"}},
		{name: "chunked and gzipped", header: []string{"Content-Type", "text/plain", "Content-Encoding", "gzip"}, request: []string{"Accept-Encoding", "gzip"}},
		{name: "grpc", header: []string{"Content-Type", "application/grpc+proto"}},
		{name: "incremental response", header: []string{"Content-Length", length, "Incremental", "?1"}},
		{name: "flushed at once", options: "flush_interval -1", header: []string{"Content-Length", length}},
		{name: "flushed at times", options: "flush_interval 5ms", header: []string{"Content-Length", length}},
		{name: "incremental request", options: "flush_interval 5ms", header: []string{"Content-Length", length}, request: []string{"Incremental", "?1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				d := newDrip(c.header...)
				s := serve(t, fmt.Sprintf("%s %s {\n %s\n }", directive, origin(t, d.serve), c.options))
				d.follow(t, newClient(t), s.url("/"), dripParts, c.request...)
			})
		})
	}
}

func TestStockStreamsToEachVersion(t *testing.T) {
	withEachVersion(t, func(t *testing.T, directive string, c secureClient) {
		d := newDrip("Content-Type", "text/event-stream")
		s := serveSecure(t, directive+" "+origin(t, d.serve))
		d.follow(t, c.start(t, s), s.url("/"), dripParts)
	})
}

// A stream that pauses beyond the hold goes on afterwards, and one that ends
// within it is whole.
func TestStockStreamWithPauses(t *testing.T) {
	big := string(faultinject.Bytes(100_000))
	onBoth(t, func(t *testing.T, directive string) {
		d := newDrip("Content-Type", "application/octet-stream")
		s := serve(t, directive+" "+origin(t, d.serve))
		d.follow(t, newClient(t), s.url("/"), []string{"x", big, "y", big, "z"})
	})
}

// Requests and responses that stream at the same time, as gRPC does.
func TestStockBothWaysAtOnce(t *testing.T) {
	for _, c := range secureClients[1:] { // HTTP/1.1 takes turns
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				srv := httptest.NewUnstartedServer(http.HandlerFunc(echoWords))
				srv.Config.Protocols = new(http.Protocols)
				srv.Config.Protocols.SetUnencryptedHTTP2(true)
				s := serveSecure(t, directive+" h2c://"+startHTTP(t, srv))
				body, words := io.Pipe()
				res, err := c.start(t, s).Do(newRequest(t, http.MethodPost, s.url("/"), body))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				for i := range 5 {
					word := fmt.Sprintf("word %d", i)
					_, _ = io.WriteString(words, word)
					expect(t, "echo", readFull(t, res.Body, len(word)), word)
				}
				_ = words.Close()
				expect(t, "after the end", readAll(t, res.Body), "")
			})
		})
	}
}

func echoWords(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	buf := make([]byte, 1024)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		_ = rc.Flush()
		if err != nil {
			return
		}
	}
}

// An origin that answers while the client is still uploading.
func TestStockUploadStreams(t *testing.T) {
	withEachVersion(t, func(t *testing.T, directive string, c secureClient) {
		parts := make(chan string, 10)
		s := serveSecure(t, directive+" "+origin(t, func(w http.ResponseWriter, r *http.Request) {
			buf := make([]byte, 1024)
			for {
				n, err := r.Body.Read(buf)
				if n > 0 {
					parts <- string(buf[:n])
				}
				if err != nil {
					fmt.Fprint(w, err)
					return
				}
			}
		}))
		body, words := io.Pipe()
		done := make(chan answer, 1)
		client, req := c.start(t, s), newRequest(t, http.MethodPut, s.url("/"), body)
		go func() { done <- do(t, client, req) }()
		for i := range 5 {
			word := fmt.Sprintf("word %d", i)
			_, _ = io.WriteString(words, word)
			expect(t, "what the origin got", receive(t, "a word", parts), word)
		}
		_ = words.Close()
		expect(t, "the answer", receive(t, "the answer", done).body, "EOF")
	})
}

// Bodies of every size come through, whatever is held of them.
func TestStockBodySizes(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		o := startOrigin(t, faultinject.Config{})
		s := serve(t, directive+" "+o.Addr())
		for _, n := range []int{0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20} {
			for _, query := range []string{"", "?chunked=1"} {
				got := s.get(t, fmt.Sprintf("/bytes/%d%s", n, query))
				if !bytes.Equal([]byte(got.body), faultinject.Bytes(n)) {
					t.Errorf("%d bytes%s: got %d bytes that differ", n, query, len(got.body))
				}
			}
		}
	})
}
