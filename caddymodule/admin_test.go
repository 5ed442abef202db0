// SPDX-License-Identifier: Apache-2.0

// The admin API, asked as an operator does: over HTTP, of a running Caddy.

package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/faultinject"
)

// adminServer is a Caddy with its admin endpoint on.
type adminServer struct {
	*server
	admin  string // host:port
	global string // options
}

// serveAdmin runs a Caddy with the directives given, until the test ends.
func serveAdmin(tb testing.TB, global, directives string) *adminServer {
	tb.Helper()
	s := &adminServer{
		server: &server{addr: freeAddr(tb), log: filepath.Join(tb.TempDir(), "caddy.log")},
		admin:  freeAddr(tb), global: global,
	}
	tb.Cleanup(func() {
		// Only another configuration ends the admin endpoint.
		if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
			tb.Errorf("turning the admin endpoint off: %v", err)
		}
		if err := caddy.Stop(); err != nil {
			tb.Errorf("stopping Caddy: %v", err)
		}
	})
	s.reload(tb, directives)
	return s
}

// reload replaces the configuration.
func (s *adminServer) reload(tb testing.TB, directives string) {
	tb.Helper()
	if err := s.tryLoad(tb, directives); err != nil {
		tb.Fatalf("loading the configuration: %v", err)
	}
	awaitOneListener(tb, s.addr)
	awaitOneListener(tb, s.admin)
}

// tryLoad does not wait until the old configuration has let go of the addresses.
func (s *adminServer) tryLoad(tb testing.TB, directives string) error {
	tb.Helper()
	defer caddymodule.OnlyInjectedPressureForTest(0)
	return caddy.Load(adapt(tb, fmt.Sprintf(`{
	admin %s
	persist_config off
	grace_period 1s
	log default {
		output file %s
		format json
		level DEBUG
	}
	%s
}
http://%s {
	%s
}
`, s.admin, s.log, s.global, s.addr, directives)), true)
}

// ask calls the admin API. Caddy replaces the endpoint's server at each reload
// and ends the old one in the background, with connections that it has just
// accepted.
func (s *adminServer) ask(tb testing.TB, method, path, body string, header ...string) answer {
	tb.Helper()
	const tries = 5
	for i := 1; ; i++ {
		var r io.Reader
		if body != "" {
			r = strings.NewReader(body)
		}
		res, err := newClient(tb).Do(newRequest(tb, method, "http://"+s.admin+path, r, header...))
		if err == nil {
			return readAnswer(tb, res)
		}
		if i == tries {
			tb.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// standing is what the API says of an upstream.
type standing struct {
	Zone        string    `json:"zone"`
	PoolFault   bool      `json:"pool_fault"`
	Upstream    string    `json:"upstream"`
	State       string    `json:"state"`
	Manual      bool      `json:"manual"`
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until"`
	Times       int       `json:"times"`
	Requests    int       `json:"requests"`
	FailureRate float64   `json:"failure_rate"`
	Failing     float64   `json:"failing"`
	Score       float64   `json:"score"`
	SlowScore   float64   `json:"slow_score"`
	Latency     float64   `json:"latency_seconds"`
	Median      float64   `json:"median_seconds"`
	InFlight    int       `json:"in_flight"`
	Share       float64   `json:"share"`
	IdleLimit   *float64  `json:"idle_limit_seconds"`
	Limit       int       `json:"limit"`
	Taken       int       `json:"taken"`
	Engaged     bool      `json:"engaged"`
	Enforced    bool      `json:"enforced"`
}

func (a answer) standings(tb testing.TB) []standing {
	tb.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		tb.Fatalf("got %d, %s: %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	var list []standing
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil || list == nil {
		tb.Fatalf("decoding %s: %v", a.body, err)
	}
	return list
}

const upstreams = "/reset_guard/upstreams"

func (s *adminServer) standings(tb testing.TB, query string) []standing {
	tb.Helper()
	return s.ask(tb, http.MethodGet, upstreams+query, "").standings(tb)
}

// one returns the only standing.
func one(tb testing.TB, list []standing) standing {
	tb.Helper()
	if len(list) != 1 {
		tb.Fatalf("got %d upstreams, want 1: %+v", len(list), list)
	}
	return list[0]
}

// addresses returns those of origins that answer with their names, sorted.
func addresses(tb testing.TB, n int) []string {
	tb.Helper()
	var addrs []string
	for i := range n {
		addrs = append(addrs, origin(tb, named(fmt.Sprint(i))))
	}
	slices.Sort(addrs)
	return addrs
}

func TestAdminListsUpstreams(t *testing.T) {
	leaveNothing(t)
	addrs := addresses(t, 3)
	before := time.Now().Add(-time.Second)
	// The second site has the same upstreams in another order, and shares the pool.
	s := serveAdmin(t, "", fmt.Sprintf("handle /a {\nreset_guard %s\n}\nhandle /b {\nreset_guard %s\n}",
		join(addrs...), join(addrs[2], addrs[1], addrs[0])))
	const requests = 30
	for range requests {
		s.get(t, "/a")
	}
	list := s.standings(t, "")
	if len(list) != len(addrs) {
		t.Fatalf("got %d upstreams, want each of the three once: %+v", len(list), list)
	}
	sum := 0
	for i, u := range list {
		sum += u.Requests
		if u.Upstream != addrs[i] || u.Zone != addrs[0] || u.State != "healthy" || u.Manual || u.Reason != "" || u.PoolFault || u.Share != 1 {
			t.Errorf("got %+v, want %s healthy in zone %s", u, addrs[i], addrs[0])
		}
		if u.Since.Before(before) || u.Since.After(time.Now()) || !u.Until.IsZero() || u.Score != 0 || u.FailureRate != 0 {
			t.Errorf("got %+v", u)
		}
		if u.Requests > 0 && (u.Latency <= 0 || u.Latency > 20) {
			t.Errorf("got latency %v after %d requests", u.Latency, u.Requests)
		}
	}
	expect(t, "requests", sum, requests)

	expect(t, "by upstream", one(t, s.standings(t, "?upstream="+addrs[1])).Upstream, addrs[1])
	expect(t, "by zone", len(s.standings(t, "?zone="+addrs[0])), len(addrs))
	expect(t, "by the other site's name", len(s.standings(t, "?zone="+addrs[2])), len(addrs))
	expect(t, "another zone", len(s.standings(t, "?zone=other")), 0)
	expect(t, "HEAD", s.ask(t, http.MethodHead, upstreams, "").status, http.StatusOK)
}

func TestAdminOrders(t *testing.T) {
	leaveNothing(t)
	addrs := addresses(t, 2)
	s := serveAdmin(t, "", "reset_guard "+join(addrs...))
	order := func(name, body string) standing {
		t.Helper()
		return one(t, s.ask(t, http.MethodPost, upstreams+"/"+name, body, "Content-Type", "application/json").standings(t))
	}
	byQuery := func(name, query string) standing {
		t.Helper()
		return one(t, s.ask(t, http.MethodPost, upstreams+"/"+name+"?"+query, "").standings(t))
	}
	expect(t, "found by its URL", one(t, s.standings(t, "?upstream=https://"+addrs[0])).Upstream, addrs[0])
	got := order("eject", fmt.Sprintf(`{"upstream":%q,"for":"1h"}`, "http://"+addrs[0]+"/"))
	if got.State != "ejected" || !got.Manual || got.Reason != "manual" || got.Share != 0 {
		t.Errorf("eject: got %+v", got)
	}
	if left := time.Until(got.Until); left < 59*time.Minute || left > time.Hour {
		t.Errorf("eject: got %s left, want an hour", left)
	}
	for range 20 {
		expect(t, "answered by", s.get(t, "/").body != "", true)
	}
	expect(t, "requests to the ejected", one(t, s.standings(t, "?upstream="+addrs[0])).Requests, 0)

	if got = byQuery("eject", "upstream="+addrs[0]); got.State != "ejected" || !got.Until.IsZero() {
		t.Errorf("eject until restored: got %+v", got)
	}
	if got = byQuery("drain", "upstream="+addrs[0]+"&zone="+addrs[0]); got.State != "draining" || !got.Manual {
		t.Errorf("drain: got %+v", got)
	}
	drained := got.Since
	if got = order("restore", fmt.Sprintf(`{"upstream":%q,"zone":%q}`, addrs[0], addrs[0])); got.State != "healthy" || got.Manual ||
		got.Since.Before(drained) || got.Reason != "" {
		t.Errorf("restore: got %+v", got)
	}
	for _, a := range addrs { // no policy protects what an operator takes out
		byQuery("eject", "upstream="+a)
	}
	expect(t, "status without upstreams", s.get(t, "/").status, http.StatusServiceUnavailable)
	fault := s.faults(t)[0]
	expect(t, "cause", fault.text("cause"), "no_upstream")
	expect(t, "side", fault.text("side"), "proxy")
	if !strings.Contains(fault.text("hint"), "Operators have taken out all origins") {
		t.Errorf("got the hint %q, want it to name the orders", fault.text("hint"))
	}
	for i, want := range []string{"info", "info", "info", "warn"} { // the last one left
		expect(t, fmt.Sprintf("level of ejection %d", i), s.told(t, "upstream ejected")[i].text("level"), want)
	}
	byQuery("restore", "upstream="+addrs[0])
	s.wantTold(t, addrs[0], "upstream ejected", "upstream ejected", "upstream draining", "upstream restored",
		"upstream ejected", "upstream restored")
}

// wantTold looks for the log's lines about an upstream.
func (s *server) wantTold(tb testing.TB, upstream string, want ...string) {
	tb.Helper()
	var told []string
	for _, l := range s.lines(tb) {
		if l.text("logger") == "reset_guard" && l.text("upstream") == upstream && l.text("to") != "" {
			told = append(told, l.text("msg"))
		}
	}
	if !slices.Equal(told, want) {
		tb.Errorf("the log tells of %s: got %q, want %q", upstream, told, want)
	}
}

func TestAdminRefuses(t *testing.T) {
	addrs := addresses(t, 2)
	s := serveAdmin(t, "", "reset_guard "+join(addrs...))
	isJSON := []string{"Content-Type", "application/json"}
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		want                     string // in the error
	}{
		{"no such upstream", "POST", "/eject?upstream=10.9.9.9:1", "", nil, 404, addrs[1] + " (zone " + addrs[0] + ")"},
		{"no such zone", "POST", "/eject?upstream=" + addrs[0] + "&zone=b", "", nil, 404, "in zone 'b'"},
		{"no upstream", "POST", "/drain", "", nil, 400, "needs an upstream"},
		{"GET of an order", "GET", "/eject?upstream=" + addrs[0], "", nil, 405, "use POST"},
		{"POST of the list", "POST", "", "", nil, 405, "use GET"},
		{"form", "POST", "/eject", "upstream=" + addrs[0], []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "send application/json"},
		{"no type", "POST", "/eject", "{}", nil, 415, "send application/json"},
		{"not JSON", "POST", "/eject", "{", isJSON, 400, "decoding the body"},
		{"two orders", "POST", "/eject", `{"upstream":"a"}{"upstream":"b"}`, isJSON, 400, "more than one"},
		{"unknown field", "POST", "/eject", `{"upstream":"a","fro":"1m"}`, isJSON, 400, "upstream, zone, for"},
		{"unknown parameter", "POST", "/eject?upstream=a&fro=1m", "", nil, 400, "unknown parameter 'fro'"},
		{"unknown filter", "GET", "?upstraem=a", "", nil, 400, "unknown parameter 'upstraem'"},
		{"twice", "GET", "?zone=a&zone=b", "", nil, 400, "given 2 times"},
		{"both", "POST", "/eject?upstream=a", `{"upstream":"a"}`, isJSON, 400, "not in both"},
		{"restore for", "POST", "/restore", `{"upstream":"a","for":"1m"}`, isJSON, 400, "takes no 'for'"},
		{"restore for in the query", "POST", "/restore?upstream=a&for=1m", "", nil, 400, "unknown parameter 'for'"},
		{"bad duration", "POST", "/eject?upstream=a&for=soon", "", nil, 400, "for: 'soon' is not a duration, such as 10m"},
		{"bad duration in the body", "POST", "/eject", `{"upstream":"a","for":"soon"}`, isJSON, 400, "for: 'soon' is not a duration, such as 10m"},
		{"bad number in the body", "POST", "/eject", `{"upstream":"a","for":true}`, isJSON, 400, "for: 'true' is not a duration, such as 10m"},
		{"negative", "POST", "/eject?upstream=a&for=-1s", "", nil, 400, "above 0"},
		{"zero", "POST", "/eject", `{"upstream":"a","for":0}`, isJSON, 400, "above 0"},
		{"too long", "POST", "/eject", `{"upstream":"` + strings.Repeat("a", 70_000) + `"}`, isJSON, 413, "longer than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.ask(t, c.method, upstreams+c.path, c.body, c.header...)
			var e struct{ Error string }
			if err := json.Unmarshal([]byte(got.body), &e); err != nil || got.status != c.status || !strings.Contains(e.Error, c.want) {
				t.Errorf("got %d %s, want %d with %q", got.status, got.body, c.status, c.want)
			}
			if c.status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
				t.Error("got no Allow field")
			}
		})
	}
	for _, u := range s.standings(t, "") {
		expect(t, u.Upstream, u.State, "healthy")
	}
}

// An upstream that two pools have is ejected in both, unless a zone is named.
func TestAdminOrderReachesAllZones(t *testing.T) {
	addrs := addresses(t, 4)
	a, b := addrs[:3], []string{addrs[3], addrs[2]}
	s := serveAdmin(t, "", fmt.Sprintf("handle /a {\nreset_guard %s\n}\nhandle /b {\nreset_guard %s\n}", join(a...), join(b...)))
	shared := addrs[2]
	if list := s.standings(t, "?upstream="+shared); len(list) != 2 || list[0].Zone != addrs[0] || list[1].Zone != addrs[3] {
		t.Fatalf("got %+v, want two zones", list)
	}
	list := s.ask(t, http.MethodPost, upstreams+"/drain?upstream="+shared, "").standings(t)
	if len(list) != 2 || list[0].State != "draining" || list[1].State != "draining" {
		t.Errorf("got %+v, want it draining in both zones", list)
	}
	list = s.ask(t, http.MethodPost, upstreams+"/restore?zone="+addrs[3]+"&upstream="+shared, "").standings(t)
	expect(t, "restored in its zone", one(t, list).State, "healthy")
	list = s.standings(t, "?upstream="+shared)
	expect(t, "elsewhere", list[0].State, "draining")
}

// An order holds over reloads, and an upstream that left the configuration is
// no longer listed.
func TestAdminAfterReload(t *testing.T) {
	leaveNothing(t)
	addrs := addresses(t, 3)
	s := serveAdmin(t, "", "reset_guard "+join(addrs...))
	was := one(t, s.ask(t, http.MethodPost, upstreams+"/eject?upstream="+addrs[1], "").standings(t))
	s.reload(t, "reset_guard "+join(addrs[0], addrs[1]))
	list := s.standings(t, "")
	still := s.told(t, "upstreams still out")
	if len(still) != 1 || still[0].text("level") != "info" || fmt.Sprint(still[0]["which"]) != "["+addrs[1]+": ejected, manual]" || still[0]["upstreams"] != 2.0 {
		t.Errorf("got %v, want one line about the second upstream", still)
	}
	if len(list) != 2 || list[1].State != "ejected" || !list[1].Manual || !list[1].Since.Equal(was.Since) {
		t.Errorf("got %+v, want two upstreams, the second one ejected since %s", list, was.Since)
	}
	for what, refused := range map[string]string{
		"provisioned": "reset_guard https://" + addrs[2] + " {\ntransport http {\ntls_trust_pool file /does/not/exist\n}\n}",
		"started":     "reset_guard " + addrs[2] + "\n}\nhttp://" + addrs[0] + " {\nrespond taken",
	} {
		if err := s.tryLoad(t, refused); err == nil {
			t.Errorf("a configuration that cannot be %s was accepted", what)
		}
		list := s.standings(t, "")
		if len(list) != 2 || list[1].State != "ejected" {
			t.Errorf("after a configuration that cannot be %s: got %+v, want what was there before", what, list)
		}
	}
	got := one(t, s.ask(t, http.MethodPost, upstreams+"/restore?upstream="+addrs[1], "").standings(t))
	expect(t, "restored", got.State, "healthy")
	s.reload(t, "respond ok")
	expect(t, "without a guarded site", len(s.standings(t, "")), 0)
	expect(t, "order without a guarded site", s.ask(t, http.MethodPost, upstreams+"/drain?upstream="+addrs[1], "").status, http.StatusNotFound)
}

func TestAdminShowsWhyAnUpstreamIsOut(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest})
	good := addresses(t, 2)
	s := serveAdmin(t, "", "reset_guard "+join(bad.Addr(), good[0], good[1]))
	var u standing
	eventually(t, "the ejection of the bad upstream", func() bool {
		s.get(t, "/")
		u = one(t, s.standings(t, "?upstream="+bad.Addr()))
		return u.State == "ejected"
	})
	if u.Reason != "failing" || u.Manual || u.Times != 1 || u.FailureRate != 1 || u.Failing < .2 || u.Requests < 5 || u.Score < 12 || u.Share != 0 {
		t.Errorf("got %+v, want the figures of an ejection", u)
	}
	if long := u.Until.Sub(u.Since); long < 4*time.Second || long > 6*time.Second {
		t.Errorf("got an ejection of %s, want 5s, give or take 20 %%", long)
	}
}

func TestAdminCountsRequestsInFlight(t *testing.T) {
	release, arrived := make(chan bool), make(chan bool, 1)
	letGo := sync.OnceFunc(func() { close(release) })
	addr := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- true
		<-release
	})
	s := serveAdmin(t, "", "reset_guard "+addr)
	t.Cleanup(letGo)
	done := make(chan bool)
	go func() {
		defer close(done)
		res, err := http.Get(s.url("/"))
		if err == nil {
			res.Body.Close()
		}
	}()
	receive(t, "the request", arrived)
	expect(t, "in flight", one(t, s.standings(t, "")).InFlight, 1)
	letGo()
	<-done
	eventually(t, "nothing in flight", func() bool { return one(t, s.standings(t, "")).InFlight == 0 })
}

// TestAdminCountsResumedAnswers: they are in flight where they are finished.
func TestAdminCountsResumedAnswers(t *testing.T) {
	const after = 300 << 10
	content := faultinject.Bytes(1 << 20)
	a := (&cutter{content: content, etag: `"v1"`, cut: everyAnswer(after, after, cutClose)}).start(t)
	b := (&cutter{content: content, etag: `"v1"`, cut: everyAnswer(after, after, cutStall)}).start(t)
	s := serveAdmin(t, "", "reset_guard "+join(a.addr, b.addr)+" {\nlb_policy first\n}")
	res, err := newClient(t).Get(s.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.ReadFull(res.Body, make([]byte, 2*after)); err != nil {
		t.Fatalf("got %d bytes and %v", n, err)
	}
	inFlight := func() map[string]int {
		counts := make(map[string]int)
		for _, u := range s.standings(t, "") {
			counts[u.Upstream] = u.InFlight
		}
		return counts
	}
	if n := inFlight(); n[a.addr] != 0 || n[b.addr] != 1 {
		t.Errorf("got %v, want one at %s", n, b.addr)
	}
	res.Body.Close()
	eventually(t, "nothing in flight", func() bool { n := inFlight(); return n[a.addr] == 0 && n[b.addr] == 0 })
}
