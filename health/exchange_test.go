// SPDX-License-Identifier: Apache-2.0

// Faults of an exchange on a fresh HTTP/1 connection, from the first byte sent
// to the last one received.

package health_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

func h1(f faultinject.Fault, s send) func(*testing.T) health.Fault {
	return through(faultinject.Config{Fault: f}, s)
}

// acted is a fault of an origin that may have acted on the request.
func acted(cause health.Cause, phases ...health.Phase) want {
	return want{cause: cause, phases: phases, side: health.SideUpstream, weight: 1, safety: health.IfIdempotent}
}

// someBytes is a body that is broken off in its middle.
const someBytes = "/bytes/100000"

var exchangeCases = []faultCase{
	{"fin_no_response", "GET", h1(faultinject.CloseAfterRequest, send{}), acted(health.Closed, health.PhaseWait)},
	{"fin_no_response", "POST", h1(faultinject.CloseAfterRequest, send{upload: 10}), acted(health.Closed, health.PhaseWait)},
	{"fin_no_response", "TLS", overTLS(faultinject.CloseAfterRequest, send{}), acted(health.Closed, health.PhaseWait)},
	{"fin_no_response", "during the upload", h1(faultinject.CloseInUpload, send{upload: 8 << 20}), acted(health.Closed, health.PhaseWrite, health.PhaseWait)},

	{"rst_after_write", "GET", h1(faultinject.ResetAfterRequest, send{}), acted(health.Reset, health.PhaseWait)},
	{"rst_after_write", "POST", h1(faultinject.ResetAfterRequest, send{upload: 10}), acted(health.Reset, health.PhaseWait)},
	{"rst_after_write", "TLS", overTLS(faultinject.ResetAfterRequest, send{}), acted(health.Reset, health.PhaseWait)},
	{"rst_after_write", "during the upload", h1(faultinject.ResetInUpload, send{upload: 8 << 20}), acted(health.Reset, health.PhaseWrite, health.PhaseWait)},
	{"rst_after_write", "during a chunked upload", h1(faultinject.ResetInUpload, send{upload: 8 << 20, chunked: true}), acted(health.Reset, health.PhaseWrite, health.PhaseWait)},
	{"first_event", "write after the reader saw the reset", writeAfterReset, acted(health.Reset, health.PhaseWait)},

	{"bad_response", "garbage", h1(faultinject.Garbage, send{}), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "malformed field", h1(faultinject.BadHeader, send{}), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "TLS, garbage", overTLS(faultinject.Garbage, send{}), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "on a reused connection", answerTwice("SMTP ready\r\n\r\n"), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "write after the reader gave up", writeAfterGarbage, acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "two different lengths", answerWith("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "header too long", answerWith("HTTP/1.1 200 OK\r\nA: " + long(1<<20) + "\r\n\r\n"), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "text of another error", answerWith(`http2: Transport: cannot retry err [REFUSED_STREAM]` + "\r\n\r\n"), acted(health.Protocol, health.PhaseHeaders)},
	{"bad_response", "part of a header and close", h1(faultinject.CloseInHeaders, send{}), acted(health.Closed, health.PhaseHeaders)},
	{"bad_response", "part of a header and reset", h1(faultinject.ResetInHeaders, send{}), acted(health.Reset, health.PhaseHeaders)},
	{"bad_response", "TLS, part of a header and close", overTLS(faultinject.CloseInHeaders, send{}), acted(health.Closed, health.PhaseHeaders)},
	{"bad_response", "TLS, part of a header and reset", overTLS(faultinject.ResetInHeaders, send{}), acted(health.Reset, health.PhaseHeaders)},

	{"response_timeout", "silence", h1(faultinject.StallBeforeHeaders, send{tune: impatient}), acted(health.Timeout, health.PhaseWait)},
	{"response_timeout", "silence on a reused connection", silenceWhenReused, acted(health.Timeout, health.PhaseWait)},
	{"response_timeout", "silence after a part of a header", h1(faultinject.StallInHeaders, send{tune: impatient}), acted(health.Timeout, health.PhaseHeaders)},

	{"body_reset", "known length", h1(faultinject.ResetInBody, send{path: someBytes}), acted(health.Reset, health.PhaseBody)},
	{"body_reset", "chunked", h1(faultinject.ResetInBody, send{path: someBytes + "?chunked=1"}), acted(health.Reset, health.PhaseBody)},
	{"body_reset", "TLS", overTLS(faultinject.ResetInBody, send{path: someBytes}), acted(health.Reset, health.PhaseBody)},
	{"body_truncated", "known length", h1(faultinject.CloseInBody, send{path: someBytes}), acted(health.Closed, health.PhaseBody)},
	{"body_truncated", "chunked", h1(faultinject.CloseInBody, send{path: someBytes + "?chunked=1"}), acted(health.Closed, health.PhaseBody)},
	{"body_truncated", "TLS", overTLS(faultinject.CloseInBody, send{path: someBytes}), acted(health.Closed, health.PhaseBody)},
	{"body_truncated", "chunk without a length", answerWith("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), acted(health.Protocol, health.PhaseBody)},

	// Go cannot know of it, so there is nothing to classify.
	{"undetectable", "close-delimited body, cut", cutUndelimited, want{}},
}

func TestClassifyExchange(t *testing.T) { runCases(t, exchangeCases) }

func impatient(c *client) { c.ResponseHeaderTimeout = 150 * time.Millisecond }

func long(n int) string { return string(bytes.Repeat([]byte{'a'}, n)) }

// answerWith lets a peer answer a request with text and close.
func answerWith(text string) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		c := newClient(t, nil)
		c.MaxResponseHeaderBytes = 64 << 10
		return c.try(t, "http://"+startAnswerer(t, text), send{}).fault(t)
	}
}

// answerTwice lets the second answer on a connection be text.
func answerTwice(text string) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		addr := startAnswerer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", text)
		return newClient(t, nil).try(t, "http://"+addr, send{warm: true, upload: 10}).fault(t)
	}
}

func silenceWhenReused(t *testing.T) health.Fault {
	addr := startAnswerer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "")
	return newClient(t, nil).try(t, "http://"+addr, send{warm: true, tune: impatient}).fault(t)
}

// startAnswerer answers the requests of a connection with texts, then closes.
// It is silent where a text is empty.
func startAnswerer(t *testing.T, texts ...string) string {
	t.Helper()
	return startPeer(t, func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		for _, text := range texts {
			for seen := []byte(nil); !bytes.Contains(seen, []byte("\r\n\r\n")); {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				seen = append(seen, buf[:n]...)
			}
			if text == "" {
				drain(c)
			}
			_, _ = io.WriteString(c, text)
		}
		_ = c.CloseWrite()
		drain(c)
	})
}

// writeAfterReset writes after the reader has seen a reset and closed the
// connection, which is what an upload meets when net/http's reader is faster.
func writeAfterReset(t *testing.T) health.Fault {
	return writeAfterClose(t, func(c *net.TCPConn) { reset(c) })
}

// writeAfterGarbage does the same after an answer that is not HTTP.
func writeAfterGarbage(t *testing.T) health.Fault {
	return writeAfterClose(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "SMTP ready")
		drain(c)
	})
}

func writeAfterClose(t *testing.T, answer func(c *net.TCPConn)) health.Fault {
	t.Helper()
	addr := startPeer(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		answer(c)
	})
	c := newClient(t, nil)
	conn, err := c.dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("PUT ")); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Read(make([]byte, 100))
	_ = conn.Close()
	_, err = conn.Write([]byte("/"))
	if !errors.Is(err, net.ErrClosed) {
		t.Fatalf("writing: got %v, want %v", err, net.ErrClosed)
	}
	return health.Classify(err, health.Evidence{
		Watched: true, Connected: true, Uploaded: true, Conn: health.Unwrap(conn),
	})
}

func cutUndelimited(t *testing.T) health.Fault {
	text := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of what was to c"
	a := newClient(t, nil).try(t, "http://"+startAnswerer(t, text), send{})
	if a.err != nil || a.response.StatusCode != http.StatusOK {
		t.Fatalf("got error %v, want none: HEALTH.md must say that it can be detected", a.err)
	}
	return health.Fault{}
}

// A reset in an upload is a reset, whether the reader or the writer sees it
// first and whatever error that leaves.
func TestResetDuringUploads(t *testing.T) {
	// The sockets between can swallow all of the upload before it is broken off.
	want := acted(health.Reset, health.PhaseWrite, health.PhaseWait)
	seen := make(map[string]int)
	for i := range 60 {
		f := tryOrigin(t, faultinject.Config{Fault: faultinject.ResetInUpload, After: int64(1 + i*70_000)},
			send{upload: 8 << 20, chunked: i%2 == 0}).fault(t)
		want.check(t, f)
		seen[errorKind(f.Err)]++
	}
	t.Logf("errors of the round trips: %v", seen)
}

// errorKind shortens an error to what differs between runs.
func errorKind(err error) string {
	for _, e := range []error{syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed, io.EOF} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return err.Error()
}
