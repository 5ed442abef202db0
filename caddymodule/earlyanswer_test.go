// SPDX-License-Identifier: Apache-2.0

// Answers that come while the client uploads arrive, and streams are reset only
// where an answer cannot be finished.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// hasty answers before it has read the body, and reads on.
func hasty(c net.Conn) {
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much")
	_, _ = io.Copy(io.Discard, c)
}

// upload sends size bytes, a multiple of 28, over 0.7 s, longer than net/http
// listens after an answer, looks for an answer only then, and returns it.
func upload(s *server, size int, chunked bool, connection string) (*http.Response, error) {
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	framing := fmt.Sprintf("Content-Length: %d", size)
	if chunked {
		framing = "Transfer-Encoding: chunked"
	}
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n%s\r\n\r\n", s.addr, connection, framing)
	const parts = 28
	pace := time.NewTicker(25 * time.Millisecond) // an upload that takes its time is what is tested
	defer pace.Stop()
	part := make([]byte, size/parts)
	for range parts {
		if chunked {
			fmt.Fprintf(c, "%x\r\n", len(part))
		}
		if _, err := c.Write(part); err != nil {
			return nil, fmt.Errorf("uploading: %w", err) // as many clients tell it, instead of the answer
		}
		if chunked {
			_, _ = io.WriteString(c, "\r\n")
		}
		<-pace.C
	}
	if chunked {
		_, _ = io.WriteString(c, "0\r\n\r\n")
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "too much" {
		return nil, fmt.Errorf("got the body %q and %w", text, err)
	}
	return res, nil
}

func TestEarlyAnswersArrive(t *testing.T) {
	directives := []string{guarded}
	if os.Getenv("RESET_GUARD_LONG") != "" {
		directives = append(directives, stock) // for comparison
	}
	for _, directive := range directives {
		for _, size := range []int{112 << 10, 7 << 20} {
			for _, chunked := range []bool{false, true} {
				for _, connection := range []string{"keep-alive", "close"} {
					t.Run(fmt.Sprintf("%s %d chunked=%v %s", directive, size, chunked, connection), func(t *testing.T) {
						s := serve(t, directive+" "+tcpOrigin(t, hasty))
						res, err := upload(s, size, chunked, connection)
						if directive == stock {
							t.Logf("through %s: %v", stock, err)
							return
						}
						if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
							t.Fatalf("got %v, want the answer", err)
						}
					})
				}
			}
		}
	}
}

// TestEarlyAnswersOfSmallUploadsAreWhole: net/http would read the rest of a small
// upload itself before it sends an answer's header, and close the body while the proxy
// is still passing it on; that broke off the exchange with the origin.
func TestEarlyAnswersOfSmallUploadsAreWhole(t *testing.T) {
	const long = 2 << 20
	arrived := make(chan struct{}, 1)
	answer := faultinject.Bytes(long)
	s := serve(t, guarded+" "+tcpOrigin(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		arrived <- struct{}{}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", long)
		_, _ = c.Write(answer)
		_, _ = io.Copy(io.Discard, c)
	}))
	for i := range 200 {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		size := 100<<10 + i
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\nx", s.addr, size)
		receive(t, "the request", arrived)
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = conn.Write(make([]byte, size-1)) })
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(got, answer) {
			t.Errorf("answer %d: got %d bytes and %v", i, len(got), err)
		}
		sending.Wait()
		_ = conn.Close()
	}
}

// TestEarlyAnswersGrow: the header comes while much of the upload is missing, the body
// when little is, which net/http would wait for.
func TestEarlyAnswersGrow(t *testing.T) {
	const size, begin, most = 700 << 10, 100 << 10, 600 << 10
	passed := make(chan struct{})
	s := serve(t, guarded+" "+tcpOrigin(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, req.Body, begin)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n")
		passed <- struct{}{}
		_, _ = io.CopyN(io.Discard, req.Body, most-begin)
		_, _ = io.WriteString(c, "hello")
		_, _ = io.Copy(io.Discard, req.Body)
	}))
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", s.addr, size)
	_, _ = conn.Write(make([]byte, begin))
	receive(t, "the answer's header", passed)
	_, _ = conn.Write(make([]byte, most-begin))
	// The rest is not sent before the answer has come.
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "hello" {
		t.Errorf("got %q and %v", body, err)
	}
}

// TestEarlyAnswersKeepStreams: over HTTP/2 and HTTP/3 an early answer is whole,
// too.
func TestEarlyAnswersKeepStreams(t *testing.T) {
	site := serveSecure(t, guarded+" "+tcpOrigin(t, hasty))
	for _, c := range secureClients {
		body := io.LimitReader(zeros{}, 8<<20)
		res, err := c.start(t, site).Do(newRequest(t, http.MethodPost, site.url("/"), body))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		text, err := io.ReadAll(res.Body)
		if res.Body.Close(); err != nil || string(text) != "too much" {
			t.Errorf("%s: got %q and %v", c.name, text, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestStreamsAreResetAsALastResort: an answer that cannot be finished ends with
// RST_STREAM INTERNAL_ERROR and a line that says so; one that can, does not.
func TestStreamsAreResetAsALastResort(t *testing.T) {
	const size = 1 << 20
	want := faultinject.Bytes(size)
	for name, tag := range map[string]string{"finished": `"v1"`, "broken": ""} {
		t.Run(name, func(t *testing.T) {
			a := (&cutter{content: want, etag: tag, cut: everyAnswer(300<<10, 300<<10, cutReset)}).start(t)
			b := (&cutter{content: want, etag: tag}).start(t)
			site := serveSecure(t, guarded+" "+join(a.addr, b.addr)+" {\nlb_policy first\n}")
			_, got, err := get(t, secureClients[1].start(t, site), site.url("/"))
			outcome := "answered"
			if tag == "" {
				outcome = "aborted"
				var reset http2.StreamError
				if !errors.As(err, &reset) || reset.Code != http2.ErrCodeInternal || !bytes.HasPrefix(want, got) {
					t.Errorf("got %d bytes and %v, want a reset stream", len(got), err)
				}
			} else if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes and %v", len(got), err)
			}
			eventually(t, "a line in the log", func() bool { return len(site.faults(t)) == 1 })
			expect(t, "outcome", site.faults(t)[0].text("outcome"), outcome)
		})
	}
}
