// SPDX-License-Identifier: Apache-2.0

// Idle connections that are forgotten without a word, through a real Caddy:
// after a few failures POSTs avoid them, and none is executed twice.

package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// forgetful is an origin that forgets connections which were idle for limit, and
// finds out when the next request comes.
type forgetful struct {
	ln      net.Listener
	limit   time.Duration
	how     int // cutClose, cutReset, or cutStall for silence
	mu      sync.Mutex
	done    map[string]int
	dials   int
	posted  int // by the test
	conns   []net.Conn
	running sync.WaitGroup
}

func startForgetful(t *testing.T, limit time.Duration, how int) *forgetful {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forgetful{ln: ln, limit: limit, how: how, done: make(map[string]int)}
	f.running.Go(f.accept)
	t.Cleanup(func() {
		ln.Close()
		f.mu.Lock()
		for _, c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.running.Wait()
	})
	return f
}

func (f *forgetful) accept() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.dials++
		f.conns = append(f.conns, c)
		f.mu.Unlock()
		f.running.Go(func() { f.serve(c) })
	}
}

func (f *forgetful) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for first, idle := true, time.Now(); ; first, idle = false, time.Now() {
		if _, err := br.Peek(1); err != nil {
			return
		}
		if !first && time.Since(idle) > f.limit {
			f.forget(c)
			return
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		f.mu.Lock()
		f.done[req.Header.Get("X-Request-Id")]++
		f.mu.Unlock()
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

func (f *forgetful) forget(c net.Conn) {
	switch f.how {
	case cutReset:
		_ = c.(*net.TCPConn).SetLinger(0)
	case cutStall: // until the other side gives up
		_, _ = io.Copy(io.Discard, c)
	}
}

// forgetLimits are as long as those of real origins and firewalls in the long form.
func forgetLimits() []time.Duration {
	if os.Getenv("RESET_GUARD_LONG") != "" {
		return []time.Duration{700 * time.Millisecond, 2 * time.Second, 5 * time.Second}
	}
	return []time.Duration{150 * time.Millisecond}
}

// TestForgottenConnectionsAreLearned has all cases at the same time, in one Caddy:
// most of what they do is wait.
func TestForgottenConnectionsAreLearned(t *testing.T) {
	type forgetting struct {
		*forgetful
		name     string
		failures int
	}
	var cases []*forgetting
	var directives strings.Builder
	for _, limit := range forgetLimits() {
		for how, name := range []string{cutReset: "reset", cutClose: "closed", cutStall: "silent"} {
			f := &forgetting{forgetful: startForgetful(t, limit, how), name: fmt.Sprintf("%s after %s", name, limit)}
			fmt.Fprintf(&directives, "handle /%d {\n reset_guard %s {\n failover {\n stall 300ms\n }\n }\n }\n", len(cases), f.ln.Addr())
			cases = append(cases, f)
		}
	}
	site := serveAdmin(t, "", directives.String())
	var running sync.WaitGroup
	for i, f := range cases {
		client := newClient(t)
		running.Go(func() {
			f.failures = f.posts(t, client, site.url(fmt.Sprintf("/%d", i)), 25, func() time.Duration {
				return time.Duration((0.8 + 0.8*rand.Float64()) * float64(f.limit))
			})
		})
	}
	running.Wait()
	told := make(map[string]int)
	for _, l := range site.lines(t) {
		if l.text("msg") == "upstream gives up idle connections" {
			told[l.text("upstream")]++
		}
	}
	for _, f := range cases {
		if f.failures > 3 {
			t.Errorf("%s: got %d failures, want 3 at the most", f.name, f.failures)
		}
		if n := told[f.ln.Addr().String()]; n != 1 {
			t.Errorf("%s: it was told %d times, want once", f.name, n)
		}
		t.Logf("%s: %d failures in %d POSTs, %d connections", f.name, f.failures, f.posted, f.dials)
	}
	limits := func() (n int) {
		for name := range site.metrics(t) {
			if strings.HasPrefix(name, "reset_guard_idle_limit_seconds") {
				n++
			}
		}
		return n
	}
	expect(t, "limits among the metrics", limits(), len(cases))
	for _, f := range cases {
		got := site.ask(t, http.MethodPost, upstreams+"/restore?upstream="+f.ln.Addr().String(), "")
		expect(t, "status of an order", got.status, http.StatusOK)
	}
	expect(t, "limits after all were restored", limits(), 0)
}

// posts sends POSTs without a key and returns how many failed.
func (f *forgetful) posts(t *testing.T, client *http.Client, url string, n int, gap func() time.Duration) (failures int) {
	t.Helper()
	for i := range n {
		f.posted++
		id := fmt.Sprint(f.posted)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("order"))
		if err != nil {
			t.Error(err)
			return n
		}
		req.Header.Set("X-Request-Id", id)
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return n
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			failures++
		}
		f.mu.Lock()
		if times := f.done[id]; times > 1 || times == 0 && res.StatusCode == http.StatusOK {
			t.Errorf("POST %d was executed %d times", i, times)
		}
		f.mu.Unlock()
		timer := time.NewTimer(gap()) // the gaps are what is tested
		<-timer.C
	}
	return failures
}

// trustingSite believes loopback whose requests it passes on, so that a test can be
// many clients.
const trustingSite = "trusted_proxies static 127.0.0.1/32"

// ask sends a request of one of many clients, with a body and without a key.
func ask(t *testing.T, client *http.Client, method, url, from string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("order"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", from)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// idleFor lets a connection be idle for longer than what may be one event.
func idleFor(d time.Duration) { <-time.After(d) }

// TestRequestsThatBreakConnectionsTeachNothing: whoever asks, and however long the
// connection was idle, it is the request that breaks it.
func TestRequestsThatBreakConnectionsTeachNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		breaks  func(*http.Request)
		options string
	}{
		"panics": {func(*http.Request) { panic(http.ErrAbortHandler) }, ""},
		"hangs":  {func(r *http.Request) { <-r.Context().Done() }, "failover {\nstall 1s\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/broken" {
					tc.breaks(r)
				}
			}))
			srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
			srv.Start()
			t.Cleanup(srv.Close)
			site := serveConfig(t, "", trustingSite, "reset_guard "+srv.Listener.Addr().String()+" {\n"+tc.options+"\n}")
			client := newClient(t)
			for i, method := range []string{http.MethodPost, http.MethodPut, http.MethodPost, http.MethodPut} {
				from := fmt.Sprintf("192.0.2.%d", i)
				if got := ask(t, client, http.MethodPost, site.url("/"), from); got != http.StatusOK {
					t.Fatalf("got %d, want an answer", got)
				}
				idleFor(120 * time.Millisecond)
				if got := ask(t, client, method, site.url("/broken"), from); got < 500 {
					t.Fatalf("got %d, want an error", got)
				}
			}
			ask(t, client, http.MethodPost, site.url("/"), "192.0.2.9") // a fresh connection
			before := conns.Load()
			idleFor(120 * time.Millisecond)
			ask(t, client, http.MethodPost, site.url("/"), "192.0.2.9")
			if n := conns.Load(); n != before {
				t.Errorf("an idle connection was not used again")
			}
			if lines := site.linesWith(t, "gives up idle connections"); len(lines) > 0 {
				t.Errorf("got %v, want nothing learned", lines)
			}
		})
	}
}

// TestRetriesProveForgottenConnections: requests of which no two ask for the same
// teach a limit when they are answered on a fresh connection, by whichever origin.
func TestRetriesProveForgottenConnections(t *testing.T) {
	const limit = 60 * time.Millisecond
	a, b := startForgetful(t, limit, cutReset), startForgetful(t, limit, cutReset)
	site := serveConfig(t, "", trustingSite, "reset_guard "+join(a.ln.Addr().String(), b.ln.Addr().String()))
	client := newClient(t)
	learned := func() bool { return len(site.linesWith(t, "gives up idle connections")) > 0 }
	for i := 0; i < 40 && !learned(); i++ {
		if got := ask(t, client, http.MethodPut, site.url(fmt.Sprint("/", i)), fmt.Sprintf("192.0.2.%d", i)); got != http.StatusOK {
			t.Fatalf("got %d, want an answer: %v", got, site.faults(t))
		}
		idleFor(2 * limit)
	}
	if !learned() {
		t.Errorf("no limit was learned; %v", site.faults(t))
	}
}

// TestUnlikeLossesProveForgottenConnections: where no two POSTs ask for the same, and
// none is sent again, a few that are lost alike teach a limit.
func TestUnlikeLossesProveForgottenConnections(t *testing.T) {
	const limit = 60 * time.Millisecond
	f := startForgetful(t, limit, cutReset)
	site := serveConfig(t, "", trustingSite, "reset_guard "+f.ln.Addr().String())
	client := newClient(t)
	learned := func() bool { return len(site.linesWith(t, "gives up idle connections")) > 0 }
	lost := 0
	for i := 0; i < 40 && !learned(); i++ {
		if got := ask(t, client, http.MethodPost, site.url(fmt.Sprint("/", i)), "192.0.2.1"); got != http.StatusOK {
			lost++
		}
		idleFor(2 * limit)
	}
	if !learned() || lost > 4 {
		t.Errorf("%d were lost, want three or four and a limit; %v", lost, site.faults(t))
	}
}

// TestConnectionsThatAreNeverReused: an origin that resets every connection which
// is used again.
func TestConnectionsThatAreNeverReused(t *testing.T) {
	f := startForgetful(t, 0, cutReset)
	site := serve(t, "reset_guard "+f.ln.Addr().String())
	failures := f.posts(t, newClient(t), site.url("/"), 60, func() time.Duration { return time.Duration(rand.IntN(20)) * time.Millisecond })
	last := f.posts(t, newClient(t), site.url("/"), 20, func() time.Duration { return time.Millisecond })
	if last > 0 {
		t.Errorf("got %d failures at last (%d before), want none", last, failures)
	}
	t.Logf("%d failures in 60 while learning", failures)
}

// TestBusyConnectionsStay: nothing is learned from an origin that keeps them.
func TestBusyConnectionsStay(t *testing.T) {
	f := startForgetful(t, time.Minute, cutReset)
	site := serve(t, "reset_guard "+f.ln.Addr().String())
	f.posts(t, newClient(t), site.url("/"), 50, func() time.Duration { return time.Millisecond })
	if f.dials != 1 {
		t.Errorf("got %d connections, want 1", f.dials)
	}
}

// A body that the proxy has buffered cannot be sent again by the attempt itself: that the
// guard has not used the connection must then lead to another attempt, and is no fault of
// the client.
func TestShunnedConnectionsOfBufferedBodies(t *testing.T) {
	const limit = 60 * time.Millisecond
	f := startForgetful(t, limit, cutReset)
	site := serve(t, "reset_guard "+join(deadAddr(t), f.ln.Addr().String())+" {\nrequest_buffers 1MiB\nlb_policy first\neject off\n}")
	client := newClient(t)
	late := map[int]int{}
	for i := range 40 {
		req := newRequest(t, http.MethodPost, site.url("/"), strings.NewReader("order"))
		req.Header.Set("X-Request-Id", fmt.Sprint(i))
		status := do(t, client, req).status
		if len(site.linesWith(t, "gives up idle connections")) > 0 {
			late[status]++
		}
		time.Sleep(2 * limit)
	}
	if len(late) != 1 || late[http.StatusOK] == 0 {
		t.Errorf("statuses once a limit is learned: got %v, want 200 only", late)
	}
}
