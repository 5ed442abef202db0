// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestNormalAnswers(t *testing.T) {
	for _, p := range []Protocol{H1, H1TLS, H2, H2C} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Protocol: p, Name: "a", ETag: `"v1"`})
			c := client(t, o)

			resp, body, err := do(c, "POST", o.URL()+"/hello?x=1", strings.NewReader("ping"), "X-Request-Id", "one")
			if err != nil || string(body) != "POST /hello?x=1\n" {
				t.Fatalf("got %q, %v, want the echo", body, err)
			}
			sum := sha256.Sum256([]byte("ping"))
			for name, want := range map[string]string{"X-Origin": "a", "X-Method": "POST", "X-Body-Sha256": hex.EncodeToString(sum[:])} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			for _, size := range []int{0, 1, 65536, 3 << 20} {
				for _, query := range []string{"", "?chunked=1"} {
					resp, body, err := do(c, "GET", fmt.Sprintf("%s/bytes/%d%s", o.URL(), size, query), nil)
					if err != nil || !bytes.Equal(body, Bytes(size)) {
						t.Errorf("%d bytes%s: got %d bytes, %v", size, query, len(body), err)
					}
					if known := resp.ContentLength >= 0; size > 0 && known == (query != "") {
						t.Errorf("%d bytes%s: got Content-Length %d", size, query, resp.ContentLength)
					}
				}
			}
			resp, body, err = do(c, "HEAD", o.URL()+"/bytes/100", nil)
			if err != nil || resp.ContentLength != 100 || len(body) != 0 {
				t.Errorf("HEAD: got Content-Length %d, %d bytes, %v, want 100, 0", resp.ContentLength, len(body), err)
			}
			resp, body, err = do(c, "GET", o.URL()+"/bytes/100", nil, "Range", "bytes=90-", "If-Range", `"v1"`)
			if err != nil || resp.StatusCode != 206 || !bytes.Equal(body, Bytes(100)[90:]) {
				t.Errorf("range: got %d, %d bytes, %v, want 206 with the last 10", resp.StatusCode, len(body), err)
			}
			resp, body, err = do(c, "GET", o.URL()+"/bytes/100", nil, "Range", "bytes=90-", "If-Range", `"v2"`)
			if err != nil || resp.StatusCode != 200 || len(body) != 100 {
				t.Errorf("range of another version: got %d, %d bytes, %v, want 200 with all", resp.StatusCode, len(body), err)
			}
			resp, _, err = do(c, "GET", o.URL()+"/bytes/much", nil)
			if err != nil || resp.StatusCode != 404 {
				t.Errorf("bad size: got %d, %v, want 404", resp.StatusCode, err)
			}
			if got := o.Accepted(); got != 1 {
				t.Errorf("connections: got %d, want 1 kept alive", got)
			}
			if got := o.Executions("one"); got != 1 {
				t.Errorf("executions: got %d, want 1", got)
			}
			if got := o.Requests(); got != 13 {
				t.Errorf("requests: got %d, want 13", got)
			}
		})
	}
}

func TestConcurrentRequests(t *testing.T) {
	for _, p := range []Protocol{H1, H2C} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Protocol: p})
			c := client(t, o)
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					up := Bytes(100_000 + i)
					_, body, err := do(c, "PUT", fmt.Sprintf("%s/bytes/%d", o.URL(), 200_000+i), bytes.NewReader(up))
					if err != nil || !bytes.Equal(body, Bytes(200_000+i)) {
						t.Errorf("request %d: got %d bytes, %v", i, len(body), err)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestContentIsTheSameFromAnyOffset(t *testing.T) {
	whole := VersionBytes(3, 100)
	for off := range 100 {
		part := make([]byte, 100-off)
		if fill(part, 3, int64(off)); !bytes.Equal(part, whole[off:]) {
			t.Errorf("from %d: content differs", off)
		}
	}
	if bytes.Equal(whole, VersionBytes(4, 100)) {
		t.Error("versions 3 and 4 have the same content")
	}
}

func TestConfigHandler(t *testing.T) {
	for _, p := range []Protocol{H1, H2C} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Protocol: p, Name: "own", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/abort" {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(http.StatusTeapot)
				_, _ = io.Copy(w, r.Body)
			})})
			c := client(t, o)
			resp, body, err := do(c, "POST", o.URL(), strings.NewReader("echo"))
			if err != nil || resp.StatusCode != 418 || string(body) != "echo" || resp.Header.Get("X-Origin") != "own" {
				t.Errorf("got %v, %q, %v, want 418 with the echo", resp, body, err)
			}
			if _, _, err = do(c, "POST", o.URL()+"/abort", strings.NewReader("echo")); err == nil {
				t.Error("aborting handler: got an answer, want none")
			}
			resp, _, err = do(c, "POST", o.URL(), bytes.NewReader(make([]byte, maxKeptUpload+1)))
			if err != nil || resp.StatusCode != 413 {
				t.Errorf("upload over the limit: got %v, %v, want 413", resp, err)
			}
		})
	}
}

// throws asks n times and says which requests failed.
func throws(t *testing.T, o *Origin, n int) string {
	t.Helper()
	c := client(t, o)
	var s strings.Builder
	for i := range n {
		_, _, err := do(c, "POST", o.URL(), nil, "X-Request-Id", fmt.Sprint(i))
		s.WriteByte("+-"[min(1, len(fmt.Sprint(err))-len("<nil>"))])
	}
	return s.String()
}

func TestProbabilityAndSeed(t *testing.T) {
	cfg := Config{Fault: ResetAfterRequest, Probability: 0.3, Seed: 7}
	first := throws(t, start(t, cfg), 200)
	if failed := strings.Count(first, "-"); failed < 40 || failed > 80 {
		t.Errorf("failed: got %d of 200, want about 60", failed)
	}
	if again := throws(t, start(t, cfg), 200); again != first {
		t.Errorf("same seed: got\n%s, want\n%s", again, first)
	}
	cfg.Seed = 8
	if other := throws(t, start(t, cfg), 200); other == first {
		t.Error("another seed: got the same sequence")
	}
}

func TestSetFault(t *testing.T) {
	o := start(t, Config{})
	for _, step := range []struct {
		fault       Fault
		probability float64
		want        string
	}{
		{ResetAfterRequest, 1, "---"},
		{ResetAfterRequest, 0, "+++"},
		{Refuse, 1, "---"},
		{CloseAfterRequest, 1, "---"},
		{Refuse, 1, "---"},
		{None, 1, "+++"},
	} {
		if err := o.SetFault(step.fault, step.probability); err != nil {
			t.Fatal(err)
		}
		if got := throws(t, o, 3); got != step.want {
			t.Errorf("%s %v: got %s, want %s", step.fault, step.probability, got, step.want)
		}
	}
	o.Close()
	if err := o.SetFault(None, 1); !errors.Is(err, errClosed) {
		t.Errorf("after Close: got %v, want %v", err, errClosed)
	}
}

func TestRefuse(t *testing.T) {
	o := start(t, Config{Fault: Refuse})
	refused := func() {
		t.Helper()
		c, err := net.Dial("tcp", o.Addr())
		if err == nil {
			c.Close()
		}
		if runtime.GOOS != "windows" && !errors.Is(err, syscall.ECONNREFUSED) || err == nil {
			t.Errorf("dialling: got %v, want %v", err, syscall.ECONNREFUSED)
		}
	}
	refused()
	if err := o.SetFault(None, 1); err != nil {
		t.Fatal(err)
	}
	open := dial(t, o)
	_, _ = io.WriteString(open, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(open), nil); err != nil {
		t.Fatal(err)
	}
	if err := o.SetFault(Refuse, 1); err != nil {
		t.Fatal(err)
	}
	refused()
	if rest, _ := io.ReadAll(open); !bytes.HasSuffix([]byte("GET /\n"), rest) {
		t.Errorf("open connection: got %q more, want its end", rest)
	}
	if o.Accepted() != 1 {
		t.Errorf("accepted: got %d, want 1", o.Accepted())
	}
}

func TestExecutions(t *testing.T) {
	for _, row := range []struct {
		protocol Protocol
		fault    Fault
		want     int
	}{
		{H1, None, 1},
		{H1, ResetOnAccept, 0},
		{H1, ResetAfterHeader, 1},
		{H1, ResetInUpload, 1},
		{H1, ResetAfterRequest, 1},
		{H1, CloseInBody, 1},
		{H1, Status503, 1},
		{H1TLS, TLSAlert, 0},
		{H2C, None, 1},
		{H2C, StreamInternalError, 1},
		{H2C, H2ConnLost, 1},
		{H2C, GoAwayCalm, 1},
		{H2C, GoAway, 0},
		{H2C, RefusedStream, 0},
	} {
		t.Run(string(row.protocol)+"/"+string(row.fault), func(t *testing.T) {
			t.Parallel()
			o := start(t, Config{Protocol: row.protocol, Fault: row.fault})
			// Only a reader: nobody but net/http itself may send it twice.
			body := struct{ io.Reader }{strings.NewReader("some upload")}
			_, _, err := do(client(t, o), "POST", o.URL()+"/bytes/100", body, "X-Request-Id", "id")
			if got := o.Executions("id"); got != row.want {
				t.Errorf("executions: got %d, want %d (client: %v)", got, row.want, err)
			}
		})
	}
}

func TestLedgerIsBounded(t *testing.T) {
	l := newLedger()
	for i := range maxLedgerIDs + 10 {
		l.enter(fmt.Sprint(i))
	}
	l.enter("0")
	if len(l.seen) != maxLedgerIDs || l.count("0") != 2 || l.count(fmt.Sprint(maxLedgerIDs)) != 0 {
		t.Errorf("got %d ids, %d of the first, want %d, 2", len(l.seen), l.count("0"), maxLedgerIDs)
	}
}

func TestBadConfig(t *testing.T) {
	for _, row := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"bad/fault", Config{Fault: "x"}, `fault "x" is unknown: use one of none, refuse,`},
		{"bad/protocol", Config{Protocol: "h9"}, `protocol "h9" is unknown: use h1, h1+tls, h2 or h2c`},
		{"bad/tls fault without TLS", Config{Fault: TLSExpired}, `fault "tls_expired" needs TLS and the origin speaks h1: use h1+tls or h2`},
		{"bad/h2 fault without h2", Config{Fault: GoAway, Protocol: H1TLS}, `fault "goaway" needs HTTP/2 and the origin speaks h1+tls: use h2 or h2c`},
		{"bad/probability", Config{Fault: Garbage, Probability: 30}, `probability 30 is not between 0 and 1`},
		{"bad/half refused", Config{Fault: Refuse, Probability: 0.5}, `probability 0.5 cannot be had`},
		{"bad/status", Config{Fault: Status}, `status code 0 cannot be sent: use 200 to 599`},
		{"bad/after", Config{After: -1}, `after is -1 bytes`},
		{"bad/duration", Config{StallFor: -1}, `a duration is negative`},
		{"bad/name", Config{Name: "a\nb"}, `contains a line break`},
		{"bad/listen", Config{Listen: ":0"}, `the address names no host`},
		{"bad/port", Config{Listen: "127.0.0.1:x"}, `starting faulty origin on "127.0.0.1:x"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			o, err := Start(row.cfg)
			if err == nil {
				o.Close()
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestCatalogueIsWhole(t *testing.T) {
	seen := make(map[Fault]bool)
	for _, f := range Faults() {
		if seen[f] {
			t.Errorf("%s is listed twice", f)
		}
		seen[f] = true
		for _, p := range []Protocol{H1, H1TLS, H2, H2C} {
			cfg := Config{Protocol: p, Status: 418}
			e, err := cfg.check(f, 1)
			if want := (e.in == anywhere) || (e.in == tlsOnly && p.tls()) || (e.in == h2Only && p.h2()); want != (err == nil) {
				t.Errorf("%s over %s: got %v, want allowed: %v", f, p, err, want)
			}
		}
	}
}
