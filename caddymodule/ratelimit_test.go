// SPDX-License-Identifier: Apache-2.0

// Limits through a real Caddy: who is refused, what it is told, and what becomes
// of the cookie.

package caddymodule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

// trusting lets tests choose their clients' addresses.
const trusting = "trusted_proxies static 127.0.0.1/8 ::1"

// limitSites are the two ways to limit a site; %s are the options.
var limitSites = map[string]string{
	"reset_guard":       "reset_guard %[2]s {\nrate_limit %[1]s\n}",
	"reset_guard_limit": "reset_guard_limit %s\nrespond \"well\"",
}

// eachLimit runs a test with either of them.
func eachLimit(t *testing.T, options string, test func(t *testing.T, s *server)) {
	t.Helper()
	for name, site := range limitSites {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			args := []any{options}
			if strings.Contains(site, "%[2]s") {
				args = append(args, origin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "well") }))
			}
			s := serveConfig(t, "", trusting, fmt.Sprintf(site, args...))
			quiet(t, 0)
			test(t, s)
		})
	}
}

// proven is the header of a client that has proven itself at this address.
func proven(addr string, id uint64) []string {
	token := caddymodule.MintForTest(id, addr, time.Now().Add(-2*time.Hour), time.Now())
	return []string{"X-Forwarded-For", addr, "Cookie", "rg=" + token}
}

func TestClientOverItsBudget(t *testing.T) {
	eachLimit(t, "{\nclient 1/m burst 3\n}", func(t *testing.T, s *server) {
		client := proven("192.0.2.1", 7)
		for range 3 {
			expect(t, "status", s.get(t, "/", client...).status, http.StatusOK)
		}
		a := s.get(t, "/", client...)
		expect(t, "status", a.status, http.StatusTooManyRequests)
		expect(t, "content type", a.header.Get("Content-Type"), "application/problem+json")
		expect(t, "policy", a.header.Get("RateLimit-Policy"), `"client";q=3;w=180`)
		expect(t, "caching", a.header.Get("Cache-Control"), "no-store")
		wait, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil || wait < 1 || wait > 60 {
			t.Errorf("got Retry-After %q, want up to a minute", a.header.Get("Retry-After"))
		}
		expect(t, "limit", a.header.Get("RateLimit"), fmt.Sprintf(`"client";r=0;t=%d`, wait))
		var problem struct {
			Type     string   `json:"type"`
			Status   int      `json:"status"`
			Violated []string `json:"violated-policies"`
		}
		if err := json.Unmarshal([]byte(a.body), &problem); err != nil {
			t.Fatalf("%v: %s", err, a.body)
		}
		expect(t, "problem", fmt.Sprint(problem), "{https://iana.org/assignments/http-problem-types#quota-exceeded 429 [client]}")

		page := s.get(t, "/", append(client, "Accept", "text/html,*/*;q=0.8")...)
		if !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, "Too many requests") {
			t.Errorf("got %q: %s", page.header.Get("Content-Type"), page.body)
		}
		expect(t, "a neighbour", s.get(t, "/", proven("192.0.2.1", 8)...).status, http.StatusOK)
	})
}

// The connection of a refused client can be used again.
func TestRefusalKeepsTheConnection(t *testing.T) {
	eachLimit(t, "{\nclient 1/m burst 1\n}", func(t *testing.T, s *server) {
		tr := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}
		var dialled atomic.Int64
		tr.DialContext = countDials(&dialled)
		t.Cleanup(tr.CloseIdleConnections)
		client := &http.Client{Transport: tr}
		header := proven("192.0.2.1", 9)
		statuses := map[int]int{}
		for i := range 6 {
			body := strings.NewReader(strings.Repeat("x", i*20_000))
			statuses[do(t, client, newRequest(t, http.MethodPost, s.url("/"), body, header...)).status]++
		}
		expect(t, "statuses", fmt.Sprint(statuses), "map[200:1 429:5]")
		expect(t, "connections", dialled.Load(), 1)
	})
}

func TestBudgetIsToldWhenItIsLow(t *testing.T) {
	eachLimit(t, "{\nclient 4/m burst 8\nheaders legacy\n}", func(t *testing.T, s *server) {
		client := proven("192.0.2.1", 10)
		for left := 7; left >= 0; left-- {
			a := s.get(t, "/", client...)
			want := ""
			if left < 2 {
				want = fmt.Sprintf(`"client";r=%d;t=15`, left)
			}
			expect(t, fmt.Sprintf("limit with %d left", left), a.header.Get("RateLimit"), want)
			if left < 2 {
				expect(t, "legacy", a.header.Get("RateLimit-Limit")+" "+a.header.Get("RateLimit-Remaining")+" "+a.header.Get("RateLimit-Reset"), fmt.Sprintf("8 %d 15", left))
			}
		}
	})
}

func TestDryRunRefusesNobody(t *testing.T) {
	eachLimit(t, "{\nclient 1/m burst 1\ndry_run\n}", func(t *testing.T, s *server) {
		for range 5 {
			expect(t, "status", s.get(t, "/", proven("192.0.2.1", 11)...).status, http.StatusOK)
		}
	})
}

func TestAutoRefusesNobodyWithoutPressure(t *testing.T) {
	eachLimit(t, "auto", func(t *testing.T, s *server) {
		tr := &http.Transport{DisableCompression: true}
		t.Cleanup(tr.CloseIdleConnections)
		client := &http.Client{Transport: tr}
		for range 1000 {
			expect(t, "status", do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil)).status, http.StatusOK)
		}
	})
}

// countDials counts the connections of a client.
func countDials(n *atomic.Int64) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// Who has a page for it answers refusals by itself, and what that page is made of
// is not refused again.
func TestErrorRoutesAnswerRefusals(t *testing.T) {
	pages := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, "come back later")
	})
	s := serveConfig(t, "", trusting, `reset_guard_limit {
	client 1/m burst 1
}
respond well
handle_errors 429 {
	reset_guard_limit {
		client 1/m burst 1
	}
	reset_guard `+pages+`
}`)
	client := proven("192.0.2.1", 20)
	expect(t, "first", s.get(t, "/", client...).body, "well")
	for range 3 {
		a := s.get(t, "/", client...)
		expect(t, "status", a.status, http.StatusTooManyRequests)
		expect(t, "body", a.body, "come back later")
		if a.header.Get("Retry-After") == "" || a.header.Get("RateLimit") == "" {
			t.Errorf("got %v", a.header)
		}
	}
}

// A request that was refused costs no origin a page for it, in the same zone.
func TestErrorRoutesProxyNoRefusals(t *testing.T) {
	var asked atomic.Int64
	pages := origin(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1) })
	const limit = "{\nrate_limit {\nzone q\nclient 1/m burst 1\n}\n}"
	s := serveConfig(t, "", trusting, "reset_guard "+pages+" "+limit+"\nhandle_errors {\nreset_guard "+pages+" "+limit+"\n}")
	client := proven("192.0.2.1", 21)
	expect(t, "first", s.get(t, "/", client...).status, http.StatusOK)
	for range 3 {
		a := s.get(t, "/", client...)
		expect(t, "status", a.status, http.StatusTooManyRequests)
		if !strings.Contains(a.body, "quota-exceeded") {
			t.Errorf("got %q", a.body)
		}
	}
	expect(t, "asked", asked.Load(), 1)
}

// With error_page off refusals have no page of ours, and no line each in the log.
func TestRefusalsWithoutAPage(t *testing.T) {
	s := serveConfig(t, "", trusting, "reset_guard "+origin(t, named("origin"))+" {\nerror_page off\noverload off\n}")
	quiet(t, 1)
	statuses := map[int]int{}
	for i := range 1000 {
		a := s.get(t, "/", "X-Forwarded-For", fmt.Sprintf("198.18.%d.1", i%250), "User-Agent", fmt.Sprint(i))
		if statuses[a.status]++; a.status == http.StatusServiceUnavailable {
			expect(t, "body", a.body, "")
			if a.header.Get("Retry-After") == "" {
				t.Errorf("got %v", a.header)
			}
			if statuses[a.status] == 5 {
				break
			}
		}
	}
	if statuses[http.StatusServiceUnavailable] == 0 {
		t.Fatalf("nobody was refused: %v", statuses)
	}
	for _, line := range s.lines(t) {
		if line.text("level") == "error" {
			t.Errorf("an error in the log: %v", line)
		}
	}
}

// A visitor who is refused can say by which id, and that finds it in the access log.
func TestRefusalsCanBeTraced(t *testing.T) {
	for name, site := range limitSites {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			options, args := "{\nzone traced\nclient 1/m burst 1\n}", []any(nil)
			if args = append(args, options); strings.Contains(site, "%[2]s") {
				args = append(args, origin(t, named("origin")))
			}
			s := serveConfig(t, "", trusting, "log\nlog_append z {http.reset_guard.limit.zone}\nlog_append c {http.reset_guard.limit.class}\nlog_append b {http.reset_guard.limit.budget}\nlog_append d {http.reset_guard.limit.decision}\n"+fmt.Sprintf(site, args...))
			quiet(t, 0)
			client := proven("192.0.2.1", 23)
			expect(t, "first", s.get(t, "/", client...).status, http.StatusOK)
			a := s.get(t, "/", client...)
			var problem struct {
				RequestID string `json:"request_id"`
			}
			if err := json.Unmarshal([]byte(a.body), &problem); err != nil || problem.RequestID == "" {
				t.Fatalf("%v: %s", err, a.body)
			}
			eventually(t, "access log", func() bool { return len(s.told(t, "handled request")) == 2 })
			lines := s.told(t, "handled request")
			for i, want := range []string{"traced proven none allowed", "traced proven client refused"} {
				expect(t, "placeholders", lines[i].text("z")+" "+lines[i].text("c")+" "+lines[i].text("b")+" "+lines[i].text("d"), want)
			}
			expect(t, "id", lines[1].text("uuid"), problem.RequestID)
			expect(t, "field", fmt.Sprint(lines[1]["reset_guard_limit"]), "map[budget:client class:proven decision:refused zone:traced]")
		})
	}
}

// What nobody has decided about before the error is decided about there.
func TestErrorRoutesAreLimited(t *testing.T) {
	s := serveConfig(t, "", trusting, "error 404\nhandle_errors {\nreset_guard_limit {\nclient 1/m burst 1\n}\nrespond page 404\n}")
	client := proven("192.0.2.1", 22)
	expect(t, "first", s.get(t, "/", client...).body, "page")
	a := s.get(t, "/", client...)
	expect(t, "second", a.status, http.StatusTooManyRequests)
	expect(t, "lines", len(s.told(t, "error handling handler error")), 0)
}

// Limits know who is logged in, as they come after that.
func TestUsersHaveBudgetsOfTheirOwn(t *testing.T) {
	// The password is "secret", hashed with the least cost that bcrypt has.
	const hash = "$2a$04$LwFxCfyE3UeNg9qVxZ33vua9Aa5DOCW7lZnTgOjRGyM/Kf2ETKdF6"
	s := serve(t, fmt.Sprintf(`basic_auth {
	alice %[1]s
	bob %[1]s
}
reset_guard_limit {
	client 1/m burst 2
	identity {http.auth.user.id}
}
respond well`, hash))
	ask := func(user string) int {
		r := newRequest(t, http.MethodGet, s.url("/"), nil)
		r.SetBasicAuth(user, "secret")
		return do(t, newClient(t), r).status
	}
	for _, step := range []struct {
		user string
		want int
	}{{"alice", 200}, {"alice", 200}, {"alice", 429}, {"bob", 200}, {"alice", 429}, {"bob", 200}, {"bob", 429}} {
		expect(t, step.user, ask(step.user), step.want)
	}
}

// An upload that is refused gets its answer, not a reset.
func TestRefusedUploadGetsItsAnswer(t *testing.T) {
	eachLimit(t, "{\nclient 1/m burst 1\n}", func(t *testing.T, s *server) {
		client := proven("192.0.2.1", 30)
		s.get(t, "/", client...)
		for range 5 {
			body := strings.NewReader(strings.Repeat("x", 3<<20))
			expect(t, "status", do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), body, client...)).status, http.StatusTooManyRequests)
		}
	})
}

// Pressure of this host sheds by class: who has no cookie first.
func TestPressureSheds(t *testing.T) {
	s := serveConfig(t, "", trusting, "reset_guard_limit\nrespond well")
	quiet(t, 0)
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr}
	ask := func(header ...string) int {
		return do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...)).status
	}
	quiet(t, 1)
	statuses := map[int]int{}
	for range 300 {
		statuses[ask("X-Forwarded-For", "192.0.2.2")]++
	}
	if statuses[http.StatusServiceUnavailable]+statuses[http.StatusTooManyRequests] == 0 {
		t.Errorf("nobody was refused under full pressure: %v", statuses)
	}
	expect(t, "a proven client elsewhere", ask(proven("192.0.2.1", 40)...), http.StatusOK)
}

// A limit that could keep nobody from anything is no valid one; in auto, which is
// there unless configured, it is worth a line.
func TestLimitsBeforeNothing(t *testing.T) {
	for options, want := range map[string]string{
		`{"mode": "fixed"}`:                "neither a zone nor a proxy",
		`{"mode": "fixed", "zone": "own"}`: "",
		`{"mode": "off"}`:                  "",
		`{}`:                               "",
	} {
		leaveNothing(t)
		s := newServer(t)
		err := caddy.Load([]byte(fmt.Sprintf(`{
			"admin": {"disabled": true, "config": {"persist": false}},
			"logging": {"logs": {"default": {"writer": {"output": "file", "filename": %q}, "encoder": {"format": "json"}}}},
			"apps": {"http": {"servers": {"s": {"listen": [%q], "automatic_https": {"disable": true}, "routes": [{"handle": [
				{"handler": "reset_guard", "rate_limit": %s}, {"handler": "static_response", "body": "well"}
			]}]}}}}}`, s.log, s.addr, options)), true)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
		if err != nil {
			continue
		}
		expect(t, options, s.get(t, "/").body, "well")
		lines := 0
		if options == `{}` {
			lines = 1
		}
		expect(t, "lines", len(s.told(t, "a handler reset_guard limits nothing")), lines)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
