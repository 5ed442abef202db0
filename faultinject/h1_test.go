// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// outcome is all that a raw client gets: bytes, and how the connection ended.
type outcome struct {
	got []byte
	err error // nil after FIN
}

// exchange writes and then reads until the connection ends.
func exchange(t *testing.T, c net.Conn, request string) outcome {
	t.Helper()
	// The origin may be gone before all is written: the read tells how.
	_, _ = io.WriteString(c, request)
	got, err := io.ReadAll(c)
	return outcome{got, err}
}

// check compares with what is wanted. Other systems than Linux drop bytes that
// a reset overtakes.
func (o outcome) check(t *testing.T, reset bool, want func(got []byte) bool) {
	t.Helper()
	switch {
	case reset && runtime.GOOS == "linux" && !errors.Is(o.err, syscall.ECONNRESET), reset && !isReset(o.err):
		t.Errorf("connection ended with %v, want a reset", o.err)
	case !reset && o.err != nil:
		t.Errorf("connection ended with %v, want FIN", o.err)
	}
	if (!reset || runtime.GOOS == "linux") && !want(o.got) {
		t.Errorf("got %q", o.got)
	}
}

func empty(got []byte) bool { return len(got) == 0 }

// halfHeader is the beginning of a good answer whose header does not end.
func halfHeader(got []byte) bool {
	return bytes.HasPrefix(got, []byte("HTTP/1.1 200 OK\r\n")) && !bytes.Contains(got, []byte("\r\n\r\n"))
}

// body returns a check for a whole header and exactly this much of /bytes/N.
func partOfBody(n int) func([]byte) bool {
	return func(got []byte) bool {
		_, body, found := bytes.Cut(got, []byte("\r\n\r\n"))
		return found && bytes.Equal(body, Bytes(n))
	}
}

// containing returns a check for one part of the bytes.
func containing(s string) func([]byte) bool {
	return func(got []byte) bool { return bytes.Contains(got, []byte(s)) }
}

const (
	get   = "GET /bytes/1000 HTTP/1.1\r\nHost: x\r\n\r\n"
	large = "GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n"
	post  = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly a part"
	chunk = "GET /bytes/40000?chunked=1 HTTP/1.1\r\nHost: x\r\n\r\n"
)

func TestH1Faults(t *testing.T) {
	short := 20 * time.Millisecond
	for _, row := range []struct {
		name    string
		cfg     Config
		request string
		reset   bool
		want    func([]byte) bool
	}{
		{"close on accept", Config{Fault: CloseOnAccept}, get, false, empty},
		{"stall on accept", Config{Fault: StallOnAccept, StallFor: short}, get, false, empty},
		{"reset after header", Config{Fault: ResetAfterHeader}, post, true, empty},
		{"reset in upload", Config{Fault: ResetInUpload, After: 4}, post, true, empty},
		{"close in upload", Config{Fault: CloseInUpload, After: 4}, post, false, empty},
		{"reset after request", Config{Fault: ResetAfterRequest}, get, true, empty},
		{"close after request", Config{Fault: CloseAfterRequest}, get, false, empty},
		{"reset in headers", Config{Fault: ResetInHeaders}, get, true, halfHeader},
		{"close in headers", Config{Fault: CloseInHeaders}, get, false, halfHeader},
		{"stall in headers", Config{Fault: StallInHeaders, StallFor: short}, get, false, halfHeader},
		{"reset in body, half", Config{Fault: ResetInBody}, get, true, partOfBody(500)},
		{"reset in body, after 7", Config{Fault: ResetInBody, After: 7}, get, true, partOfBody(7)},
		{"reset in body, all but one", Config{Fault: ResetInBody, After: 1 << 20}, get, true, partOfBody(999)},
		{"reset in body, large", Config{Fault: ResetInBody}, large, true, partOfBody(500_000)},
		{"close in body, half", Config{Fault: CloseInBody}, get, false, partOfBody(500)},
		{"close in body, large", Config{Fault: CloseInBody}, large, false, partOfBody(500_000)},
		{"stall in body", Config{Fault: StallInBody, StallFor: short, After: 9}, get, false, partOfBody(9)},
		{"garbage", Config{Fault: Garbage}, get, false, containing("this is not HTTP")},
		{"bad header", Config{Fault: BadHeader}, get, false, containing("\r\nthis line has no colon\r\n")},
		{"stall before headers", Config{Fault: StallBeforeHeaders, StallFor: short}, get, false, empty},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := start(t, row.cfg)
			began := time.Now()
			exchange(t, dial(t, o), row.request).check(t, row.reset, row.want)
			if row.cfg.StallFor > 0 && time.Since(began) < row.cfg.StallFor {
				t.Errorf("stalled for %v, want %v", time.Since(began), row.cfg.StallFor)
			}
		})
	}
}

func TestResetOnAccept(t *testing.T) {
	o := start(t, Config{Fault: ResetOnAccept})
	c, err := net.Dial("tcp", o.Addr())
	if err == nil { // the reset has not overtaken the dialling
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestCutInAChunkedBody(t *testing.T) {
	o := start(t, Config{Fault: CloseInBody})
	got := exchange(t, dial(t, o), chunk)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(got.got)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(body, Bytes(20000)) {
		t.Errorf("got %d bytes, %v, want the first half, %v", len(body), err, io.ErrUnexpectedEOF)
	}
}

func TestH1FaultsOverNetHTTP(t *testing.T) {
	for _, row := range []struct {
		fault Fault
		is    func(error) bool
	}{
		{ResetOnAccept, isGone},
		{CloseOnAccept, isGone},
		{ResetAfterHeader, isGone},
		{ResetInUpload, isGone},
		{CloseInUpload, isGone},
		{ResetAfterRequest, isReset},
		{CloseAfterRequest, isClosed},
		// textproto.Reader drops the error of a line that it has a part of, and
		// the kernel tells it only once: without TLS the reset looks like an EOF.
		{ResetInHeaders, func(err error) bool { return isReset(err) || errors.Is(err, io.ErrUnexpectedEOF) }},
		{CloseInHeaders, isClosed},
		{ResetInBody, isReset},
		{CloseInBody, isClosed},
		{Garbage, saying("malformed HTTP")},
		{BadHeader, saying("malformed MIME header")},
	} {
		for _, p := range []Protocol{H1, H1TLS} {
			t.Run(string(p)+"/"+string(row.fault), func(t *testing.T) {
				t.Parallel()
				o := start(t, Config{Protocol: p, Fault: row.fault})
				_, _, err := do(client(t, o), "POST", o.URL()+"/bytes/1000", bytes.NewReader(Bytes(100_000)))
				if !row.is(err) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestReusedConnections(t *testing.T) {
	for _, row := range []struct {
		fault Fault
		is    func(error) bool
	}{
		{ResetReused, isReset},
		{CloseReused, isClosed},
	} {
		for _, p := range []Protocol{H1, H1TLS, H2C} {
			t.Run(string(p)+"/"+string(row.fault), func(t *testing.T) {
				t.Parallel()
				o := start(t, Config{Protocol: p, Fault: row.fault})
				c := client(t, o)
				// Not idempotent, so net/http does not try again by itself.
				if _, _, err := do(c, "POST", o.URL(), nil); err != nil {
					t.Fatalf("fresh connection: got %v", err)
				}
				_, _, err := do(c, "POST", o.URL(), nil, "X-Request-Id", "second")
				if !row.is(err) {
					t.Errorf("reused connection: got %v", err)
				}
				if n := o.Executions("second"); n != 1 {
					t.Errorf("executions: got %d, want 1: the origin may have acted", n)
				}
				if _, _, err := do(c, "POST", o.URL(), nil); err != nil {
					t.Errorf("next fresh connection: got %v", err)
				}
			})
		}
	}
}

func TestIdleConnections(t *testing.T) {
	for _, row := range []struct {
		fault Fault
		reset bool
	}{
		{ResetIdle, true},
		{CloseIdle, false},
	} {
		t.Run(string(row.fault), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Fault: row.fault, IdleFor: 30 * time.Millisecond})
			began := time.Now()
			exchange(t, dial(t, o), get).check(t, row.reset, partOfBody(1000))
			if idle := time.Since(began); idle < 30*time.Millisecond {
				t.Errorf("broken after %v, want 30ms or more", idle)
			}
			// Two requests at once leave no idle time between them.
			exchange(t, dial(t, o), get+get).check(t, row.reset, func(got []byte) bool {
				return bytes.Count(got, []byte("HTTP/1.1 200 OK")) == 2
			})
		})
	}
}

func TestUploadsThatAreNotThereAreServed(t *testing.T) {
	o := start(t, Config{Fault: ResetInUpload})
	if _, body, err := do(client(t, o), "GET", o.URL()+"/bytes/5", nil); err != nil || len(body) != 5 {
		t.Errorf("got %d bytes, %v, want 5", len(body), err)
	}
}

func TestExpectContinue(t *testing.T) {
	o := start(t, Config{})
	c := client(t, o)
	c.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	if _, body, err := do(c, "PUT", o.URL(), strings.NewReader("x"), "Expect", "100-continue"); err != nil || string(body) != "PUT /\n" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestHTTP10(t *testing.T) {
	o := start(t, Config{})
	got := exchange(t, dial(t, o), "GET /bytes/20000?chunked=1 HTTP/1.0\r\n\r\n")
	got.check(t, false, partOfBody(20000))
	if bytes.Contains(got.got, []byte("Transfer-Encoding")) {
		t.Error("HTTP/1.0 was answered in chunks")
	}
}

func TestStatuses(t *testing.T) {
	for _, p := range []Protocol{H1, H2C} {
		for fault, want := range map[Fault]int{Status429: 429, Status500: 500, Status502: 502, Status503: 503, Status504: 504, Status: 418} {
			t.Run(string(p)+"/"+string(fault), func(t *testing.T) {
				t.Parallel()
				o := start(t, Config{Protocol: p, Fault: fault, Status: 418, RetryAfter: 1500 * time.Millisecond, Name: "a"})
				resp, _, err := do(client(t, o), "GET", o.URL(), nil)
				if err != nil || resp.StatusCode != want || resp.Header.Get("Retry-After") != "2" || resp.Header.Get("X-Origin") != "a" {
					t.Errorf("got %v, %v, want %d with Retry-After 2 from a", resp, err, want)
				}
			})
		}
	}
}

func TestCloseEndsStalls(t *testing.T) {
	for _, row := range []struct {
		protocol Protocol
		fault    Fault
	}{
		{H1, StallOnAccept},
		{H1, StallBeforeHeaders},
		{H1, StallInHeaders},
		{H1, StallInBody},
		{H1TLS, TLSStall},
		{H2C, StallBeforeHeaders},
		{H2C, StallInHeaders},
		{H2C, StallInBody},
	} {
		t.Run(string(row.protocol)+"/"+string(row.fault), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Protocol: row.protocol, Fault: row.fault, StallFor: time.Hour})
			c := client(t, o)
			failed := make(chan error, 1)
			go func() {
				_, _, err := do(c, "GET", o.URL()+"/bytes/100", nil)
				failed <- err
			}()
			waitFor(t, "a connection", func() bool { return o.Accepted() == 1 })
			if row.protocol != H1TLS && row.fault != StallOnAccept {
				waitFor(t, "a request", func() bool { return o.Requests() == 1 })
			}
			o.Close()
			if err := <-failed; err == nil {
				t.Error("got an answer, want an error")
			}
		})
	}
}
