// SPDX-License-Identifier: Apache-2.0

// Limits, queue and classes through a real Caddy, with origins that answer when
// they are told to.

package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/faultinject"
)

// blocker is an origin that holds requests to /hold until it is opened.
type blocker struct {
	addr    string
	held    atomic.Int64
	release chan struct{}
	open    func()
}

func newBlocker(tb testing.TB) *blocker {
	b := &blocker{release: make(chan struct{})}
	b.open = sync.OnceFunc(func() { close(b.release) })
	b.addr = origin(tb, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hold" {
			return
		}
		b.held.Add(1)
		defer b.held.Add(-1)
		select {
		case <-b.release:
		case <-r.Context().Done():
		}
	})
	tb.Cleanup(b.open)
	return b
}

// fill sends requests that are held until one is refused, and returns a function
// that waits for all of them.
func (b *blocker) fill(tb testing.TB, s *server, path string) (refused answer, wait func()) {
	tb.Helper()
	const batch, most = 50, 600
	answers := make(chan answer, most)
	client := newClient(tb)
	sent := 0
	for ; sent < most; sent += batch {
		for range batch {
			go func() {
				res, err := client.Get(s.url(path))
				if err != nil {
					answers <- answer{}
					return
				}
				answers <- readAnswer(tb, res)
			}()
		}
		select {
		case refused = <-answers:
			left := sent + batch - 1
			return refused, func() {
				for range left {
					<-answers
				}
			}
		case <-time.After(150 * time.Millisecond):
		}
	}
	tb.Fatalf("none of %d requests was refused", sent)
	return answer{}, nil
}

// quiet keeps the pressure of the machine that runs the tests out of them.
func quiet(tb testing.TB, p float64) {
	tb.Helper()
	caddymodule.OnlyInjectedPressureForTest(p)
	eventually(tb, "the pressure", func() bool {
		got := caddymodule.PressureForTest()
		return math.Abs(got-p) < .01
	})
}

func allGivenBack(tb testing.TB) {
	tb.Helper()
	eventually(tb, "all places free", func() bool { return caddymodule.PlacesTakenForTest() == 0 })
}

func refusedWell(tb testing.TB, a answer, least, most int) {
	tb.Helper()
	expect(tb, "status", a.status, http.StatusServiceUnavailable)
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < least || n > most {
		tb.Errorf("got Retry-After %q, want %d to %d", a.header.Get("Retry-After"), least, most)
	}
}

func TestRefusesWhatHasNoRoom(t *testing.T) {
	for name, site := range map[string]string{
		"choice":       "reset_guard %s {\noverload {\nmode enforce\nqueue off\n}\n}",
		"policy":       "reset_guard %s {\nlb_policy round_robin\noverload {\nmode enforce\nqueue off\n}\n}",
		"try_duration": "reset_guard %s {\nlb_try_duration 10s\noverload {\nmode enforce\nqueue off\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			a, b := newBlocker(t), newBlocker(t)
			s := serve(t, fmt.Sprintf(site, join(a.addr, b.addr)))
			quiet(t, 0)
			began := time.Now()
			refused, wait := a.fill(t, s, "/hold")
			refusedWell(t, refused, 1, 3)
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the refusal took %v", took)
			}
			if !strings.Contains(refused.header.Get("Proxy-Status"), "reset_guard") {
				t.Errorf("got Proxy-Status %q", refused.header.Get("Proxy-Status"))
			}
			if a.held.Load() == 0 || b.held.Load() == 0 {
				t.Errorf("the origins hold %d and %d, want both some", a.held.Load(), b.held.Load())
			}
			a.open()
			b.open()
			wait()
			expect(t, "status afterwards", s.get(t, "/").status, http.StatusOK)
			allGivenBack(t)
			eventually(t, "the fault line", func() bool { return len(s.faults(t)) > 0 })
			for _, l := range s.faults(t) {
				if l.text("reason") != "no_room" || l.text("cause") != "overloaded" || l.text("outcome") != "error" {
					t.Errorf("got a line %v", l)
				}
			}
		})
	}
}

// Without the handler Caddy answers, and the field is there all the same.
func TestRefusesWithoutHandler(t *testing.T) {
	b := newBlocker(t)
	s := &server{addr: freeAddr(t), log: t.TempDir() + "/caddy.log"}
	s.load(t, []byte(fmt.Sprintf(`{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "file", "filename": %q}, "encoder": {"format": "json"}}}},
		"apps": {"http": {"grace_period": "1s", "servers": {"s": {"listen": [%q], "automatic_https": {"disable": true}, "routes": [{"handle": [{
			"handler": "reverse_proxy", "upstreams": [{"dial": %q}],
			"transport": {"protocol": "reset_guard"},
			"load_balancing": {"selection_policy": {"policy": "reset_guard", "overload": {"mode": "enforce", "queue": -1}},
				"retries": 3, "retry_match": [{"reset_guard": {}}]}
		}]}]}}}}}`, s.log, s.addr, b.addr)))
	quiet(t, 0)
	refused, wait := b.fill(t, s, "/hold")
	refusedWell(t, refused, 1, 3)
	b.open()
	wait()
	expect(t, "status afterwards", s.get(t, "/").status, http.StatusOK)
	allGivenBack(t)
	eventually(t, "the fault line", func() bool {
		lines := s.faults(t)
		return len(lines) > 0 && lines[0].text("reason") == "no_room"
	})
}

func TestQueuedRequestIsServed(t *testing.T) {
	const busy = 40 * time.Millisecond
	addr := origin(t, func(http.ResponseWriter, *http.Request) { time.Sleep(busy) })
	s := serveAdmin(t, "", "reset_guard "+addr+" {\noverload {\nmode enforce\n}\n}")
	quiet(t, 0)
	const most = 480
	var served, refused atomic.Int64
	for n := 240; n <= most; n *= 2 { // until more come at once than there is room for
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				switch s.get(t, "/").status {
				case http.StatusOK:
					served.Add(1)
				case http.StatusServiceUnavailable:
					refused.Add(1)
				}
			})
		}
		all.Wait()
		if sumOf(s.metrics(t), "reset_guard_queued_total") > 0 {
			break
		}
	}
	m := s.metrics(t)
	t.Logf("%d served, %d refused, %v queued", served.Load(), refused.Load(), sumOf(m, "reset_guard_queued_total"))
	if q := sumOf(m, "reset_guard_queued_total"); q == 0 || refused.Load() >= int64(q) {
		t.Errorf("got %v queued and %d refused: want some queued, and most of those served", q, refused.Load())
	}
	allGivenBack(t)
}

func TestClassesUnderPressure(t *testing.T) {
	const classes = "overload {\npriority critical /pay*\npriority sheddable /img*\npriority background /bot*\n}"
	for name, addr := range map[string]string{"limited": classes, "off": "overload off"} {
		t.Run(name, func(t *testing.T) {
			o := newBlocker(t)
			s := serveAdmin(t, "", "reset_guard "+o.addr+" {\n"+addr+"\n}")
			quiet(t, 0.82) // between sheddable and default
			want := map[string]int{"/pay": 200, "/": 200, "/img": 503, "/bot": 503}
			if name == "off" {
				want = map[string]int{"/pay": 200, "/": 200, "/img": 200, "/bot": 200}
			}
			status := func(path string) func() bool {
				return func() bool { return s.get(t, path).status == want[path] }
			}
			eventually(t, "the gate's knowledge", status("/bot"))
			for path, code := range want {
				got := s.get(t, path)
				expect(t, path, got.status, code)
				if code == 503 {
					refusedWell(t, got, 5, 10)
				}
			}
			m := s.metrics(t)
			if name == "limited" && sumOf(m, "reset_guard_refused_total", `class="sheddable",reason="shed"`) == 0 {
				t.Errorf("got %v", m)
			}
			for _, l := range s.faults(t) {
				if l.text("side") != "proxy" || l.text("reason") != "no_room" {
					t.Errorf("got a line %v", l)
				}
			}
			caddymodule.OnlyInjectedPressureForTest(1)
			want["/"] = map[string]int{"limited": 503, "off": 200}[name]
			eventually(t, "the whole pressure", status("/"))
			expect(t, "critical at 1", s.get(t, "/pay").status, http.StatusOK)
			allGivenBack(t)
		})
	}
}

func TestOverloadOffNeverRefuses(t *testing.T) {
	neverRefuses(t, "overload off", 0)
}

func TestObserveRefusesNothing(t *testing.T) {
	neverRefuses(t, "overload {\nmode observe\npriority background /bot\n}", .7)
}

// neverRefuses sends more at once than there is room for. With pressure it would
// be refused.
func neverRefuses(t *testing.T, option string, pressure float64) {
	o := newBlocker(t)
	s := serveAdmin(t, "", "reset_guard "+o.addr+" {\n"+option+"\n}")
	quiet(t, pressure)
	if pressure > 0 {
		eventually(t, "the gate's knowledge", func() bool {
			expect(t, "status", s.get(t, "/bot").status, http.StatusOK)
			return sumOf(s.metrics(t), "reset_guard_would_refuse_total") > 0
		})
	}
	const n = 300
	var all sync.WaitGroup
	var bad atomic.Int64
	client := newClient(t)
	for range n {
		all.Go(func() {
			res, err := client.Get(s.url("/hold"))
			if err != nil || res.StatusCode != http.StatusOK {
				bad.Add(1)
			}
			if err == nil {
				res.Body.Close()
			}
		})
	}
	eventually(t, "all at the origin", func() bool { return o.held.Load() == n })
	o.open()
	all.Wait()
	expect(t, "not answered", bad.Load(), 0)
	m := s.metrics(t)
	expect(t, "refused", sumOf(m, "reset_guard_refused_total"), 0)
	expect(t, "would refuse", sumOf(m, "reset_guard_would_refuse_total", `class="default",reason="queue_full"`) > 0, pressure > 0)
	allGivenBack(t)
}

// Whatever becomes of an attempt, its place is another's afterwards.
func TestPlacesAreGivenBack(t *testing.T) {
	for _, fault := range []faultinject.Fault{
		faultinject.ResetAfterRequest, faultinject.CloseReused, faultinject.ResetInBody, faultinject.None,
	} {
		t.Run(string(fault), func(t *testing.T) {
			bad := startOrigin(t, faultinject.Config{Fault: fault})
			good := startOrigin(t, faultinject.Config{})
			s := serve(t, "reset_guard "+join(bad.Addr(), good.Addr())+" {\noverload {\nmode enforce\n}\n}")
			quiet(t, 0)
			client := newClient(t)
			for i := range 12 {
				res, err := client.Do(newRequest(t, []string{"GET", "POST"}[i%2], s.url("/"), strings.NewReader("x")))
				if err == nil {
					res.Body.Close() // unread, perhaps
				}
			}
			allGivenBack(t)
		})
	}
}

// Clients that leave: while they wait in the queue, and while they are served.
func TestGoneClientsGivePlacesBack(t *testing.T) {
	b := newBlocker(t)
	s := serve(t, "reset_guard "+b.addr+" {\noverload {\nmode enforce\n}\n}")
	quiet(t, 0)
	client := newClient(t)
	client.Timeout = 60 * time.Millisecond
	var all sync.WaitGroup
	for range 150 {
		all.Go(func() {
			if res, err := client.Get(s.url("/hold")); err == nil {
				res.Body.Close()
			}
		})
	}
	all.Wait()
	allGivenBack(t)
	expect(t, "status afterwards", s.get(t, "/").status, http.StatusOK)
}

// A reload while requests are held and others wait: the held ones end well, and
// what is known of the origin's limit stays.
func TestReloadUnderLimit(t *testing.T) {
	b := newBlocker(t)
	site := "reset_guard " + b.addr + " {\noverload {\nmode enforce\nqueue off\n}\n}"
	s := serveAdmin(t, "", site)
	quiet(t, 0)
	_, wait := b.fill(t, s.server, "/hold")
	if err := s.tryLoad(t, site); err != nil {
		t.Fatal(err)
	}
	client := newClient(t)
	eventually(t, "an answer of the new configuration", func() bool { // the old one resets what it has just accepted
		res, err := client.Get(s.url("/hold"))
		if err != nil {
			return false
		}
		refusedWell(t, readAnswer(t, res), 1, 3)
		return true
	})
	b.open()
	wait()
	allGivenBack(t)
	expect(t, "status afterwards", s.get(t, "/").status, http.StatusOK)
}

// The places of an origin that is down are of no use to anybody.
func TestPlacesOfDeadOriginsDoNotCount(t *testing.T) {
	b := newBlocker(t)
	dead := deadAddr(t)
	s := serve(t, fmt.Sprintf("reset_guard %s {\noverload {\nmode enforce\nqueue off\n}\nfail_duration 1m\nmax_fails 1\n}", join(b.addr, dead)))
	quiet(t, 0)
	for range 10 {
		expect(t, "status", s.get(t, "/").status, http.StatusOK)
	}
	time.Sleep(400 * time.Millisecond) // health checks are looked at four times a second
	refused, wait := b.fill(t, s, "/hold")
	refusedWell(t, refused, 1, 3)
	if n := b.held.Load(); n > 250 {
		t.Errorf("the origin holds %d requests, as if the other one helped", n)
	}
	b.open()
	wait()
	allGivenBack(t)
}

// Limits and pressure, as the admin API and Prometheus see them.
func TestOverloadIsTold(t *testing.T) {
	b := newBlocker(t)
	s := serveAdmin(t, "", "reset_guard "+b.addr+" {\noverload {\nmode enforce\nqueue off\n}\n}")
	quiet(t, 0.6)
	_, wait := b.fill(t, s.server, "/hold")
	b.open()
	wait()
	got := s.ask(t, http.MethodGet, "/reset_guard/upstreams", "")
	var list []struct {
		Limit   int
		Engaged *bool
	}
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list) != 1 || list[0].Limit == 0 || list[0].Engaged == nil {
		t.Errorf("got %s, %v, want a limit", got.body, err)
	}
	var told struct {
		Pressure          float64
		Level, Resource   string
		Readings, Sources []struct{ Resource, Source, Availability string }
	}
	got = s.ask(t, http.MethodGet, "/reset_guard/pressure", "")
	if err := json.Unmarshal([]byte(got.body), &told); err != nil {
		t.Fatalf("got %s: %v", got.body, err)
	}
	if told.Pressure < 0.5 || told.Level != "high" || told.Resource != "injected" || len(told.Readings) == 0 || len(told.Sources) == 0 {
		t.Errorf("got %s", got.body)
	}
	expect(t, "with a parameter", s.ask(t, http.MethodGet, "/reset_guard/pressure?x=1", "").status, http.StatusBadRequest)
	expect(t, "POST", s.ask(t, http.MethodPost, "/reset_guard/pressure", "").status, http.StatusMethodNotAllowed)
	m := s.metrics(t)
	if m["reset_guard_pressure"] < 0.5 || sumOf(m, "reset_guard_limit") == 0 {
		t.Errorf("got pressure %v and limit %v", m["reset_guard_pressure"], sumOf(m, "reset_guard_limit"))
	}
	eventually(t, "the line", func() bool { return len(s.told(t, "this host is under pressure")) > 0 })
}

// What is idle takes a descriptor, so connections end with their answers.
func TestConnectionsCloseUnderPressure(t *testing.T) {
	b := newBlocker(t)
	s := serve(t, "reset_guard "+b.addr)
	quiet(t, 0.8)
	res, err := (&http.Client{Transport: &http.Transport{}}).Do(newRequest(t, http.MethodGet, s.url("/"), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	expect(t, "closes", res.Close, true)
}

// A connection that speaks another protocol takes no place for as long as it lasts.
func TestUpgradesTakeNoPlace(t *testing.T) {
	addr := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, c)
	})
	s := serve(t, "reset_guard "+addr+" {\noverload {\nmode enforce\n}\n}")
	quiet(t, 0.8) // severe: connections are closed, but not such ones
	c, r := dialSite(t, s)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+s.addr+"\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "status", res.StatusCode, http.StatusSwitchingProtocols)
	expect(t, "Connection", strings.Join(res.Header.Values("Connection"), ","), "Upgrade")
	allGivenBack(t)
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "ping" {
		t.Errorf("got %q, %v", got, err)
	}
}

func init() { caddy.RegisterModule(panicking{}) }

// panicking is a transport that fails as none should.
type panicking struct{}

func (panicking) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.panicking", New: func() caddy.Module { return new(panicking) }}
}

func (*panicking) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*panicking) RoundTrip(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }

func TestPanicsGivePlacesBack(t *testing.T) {
	s := serve(t, "reset_guard 127.0.0.1:1 {\ntransport panicking\n}")
	quiet(t, 0)
	if res, err := newClient(t).Get(s.url("/")); err == nil {
		res.Body.Close()
		t.Errorf("got %d from a transport that panics", res.StatusCode)
	}
	allGivenBack(t)
}
