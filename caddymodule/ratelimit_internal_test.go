// SPDX-License-Identifier: Apache-2.0

// What asking a limiter costs, and what it makes of a request.

package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// testLimiter is a limiter with keys, of an app that does not run.
func testLimiter(tb testing.TB, o *RateLimit) *rateLimiter {
	tb.Helper()
	l, err := o.limiter()
	if err != nil {
		tb.Fatal(err)
	}
	reg := newRegistry()
	tb.Cleanup(func() { _ = reg.Destruct() })
	ring := ratelimit.KeyRing{}.Rotate(newSecret(), time.Now())
	reg.keys.ring.Store(&ring)
	l.app, l.shared = &App{registry: reg}, newSharedRates("test", ratelimit.Size{}, time.Now())
	return l
}

// requestFor is a request as a handler of Caddy's gets it.
func requestFor(header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://site.test/", nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
	return r
}

// mint is the cookie of a client that is proven at requestFor's address.
func (l *rateLimiter) mint(id uint64) string {
	t := ratelimit.Token{ID: id, Issued: time.Now(), First: time.Now().Add(-2 * time.Hour), Stage: ratelimit.Trusted}
	return ratelimit.CookieName + "=" + l.tokenSigner().Mint(t, ratelimit.Place{Addr: netip.MustParseAddr("192.0.2.1"), Site: "site.test"})
}

func BenchmarkAdmit(b *testing.B) {
	for name, cookie := range map[string]func(*rateLimiter) string{
		"proven":  func(l *rateLimiter) string { return l.mint(7) },
		"unknown": func(*rateLimiter) string { return "a=b" },
	} {
		b.Run(name, func(b *testing.B) {
			l := testLimiter(b, &RateLimit{Mode: modeFixed, Client: &ClientBudget{Rate: 1e6, Burst: 1e6}, Network: &NetworkBudget{Base: 1e6, Unproven: 1e6}})
			r := requestFor("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
				"Accept-Language", "en-US,en;q=0.5", "Accept-Encoding", "gzip, deflate, br, zstd")
			lines, w := []string{cookie(l)}, httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				r.Header["Cookie"] = lines[:1:1]
				line := lines[0]
				var v visit
				l.admit(&v, w, r)
				lines[0] = line
			}
		})
	}
}

// What is asked for each request leaves nothing on the heap.
func TestAdmitDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	l := testLimiter(t, &RateLimit{Mode: modeFixed, Client: &ClientBudget{Rate: 1e6, Burst: 1e6}, Network: &NetworkBudget{Base: 1e6, Unproven: 1e6}})
	for name, cookie := range map[string]string{"proven": l.mint(7), "unknown": "a=b"} {
		r, w := requestFor("User-Agent", "somebody's", "Accept-Language", "en"), httptest.NewRecorder()
		lines := []string{cookie}
		if n := testing.AllocsPerRun(1000, func() {
			lines[0] = cookie
			r.Header["Cookie"] = lines[:1:1]
			var v visit
			l.admit(&v, w, r)
		}); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}

func TestIdentities(t *testing.T) {
	l := testLimiter(t, &RateLimit{Identity: []string{"{http.auth.user.id}", "{http.request.header.X-Api-Key}", "{http.vars.key}"}})
	for name, tc := range map[string]struct {
		user        string
		header      []string
		user2, want string
	}{
		"nobody":         {},
		"a user":         {user: "alice", user2: "alice"},
		"a key":          {header: []string{"X-Api-Key", "k1"}, want: "k1"},
		"a user's key":   {user: "alice", header: []string{"X-Api-Key", "k1"}, user2: "alice"},
		"a variable":     {header: []string{"X-Var", "v1"}, want: "v1"},
		"an endless key": {header: []string{"X-Api-Key", strings.Repeat("k", maxIdentity+1)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := requestFor(tc.header...)
			if tc.user != "" {
				replacerOf(r).Set("http.auth.user.id", tc.user)
			}
			if key := r.Header.Get("X-Var"); key != "" { // as the directive vars copies one
				caddyhttp.SetVar(r.Context(), "key", key)
			}
			var v visit
			l.admit(&v, httptest.NewRecorder(), r)
			if v.request.User != tc.user2 || v.request.Claim != tc.want {
				t.Errorf("got user %q, claim %q, want %q, %q", v.request.User, v.request.Claim, tc.user2, tc.want)
			}
		})
	}
}

// Someone who is logged in at a site for any host has one budget, whatever Host it sends.
func TestUsersAreTheSameAtAllHosts(t *testing.T) {
	l := testLimiter(t, &RateLimit{Mode: modeFixed, Identity: []string{"{http.auth.user.id}"}, Client: &ClientBudget{Rate: 0.01, Burst: 2}})
	passed := 0
	for i := range 20 {
		r := requestFor()
		r.Host = fmt.Sprintf("h%d.example.com", i)
		replacerOf(r).Set("http.auth.user.id", "alice")
		var v visit
		if l.admit(&v, httptest.NewRecorder(), r) {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("`client` with burst 2: got %d of 20 requests served", passed)
	}
}

// A key in a header is nobody's until the site has answered well to it.
func TestKeysCountOnceAnswered(t *testing.T) {
	l := testLimiter(t, &RateLimit{Mode: modeFixed, Identity: []string{"{http.request.header.X-Api-Key}"}})
	for _, step := range []struct {
		status int
		grpc   string
		class  ratelimit.Class // of the next request
	}{
		{401, "", ratelimit.Unknown}, {500, "", ratelimit.Unknown}, {302, "", ratelimit.Unknown},
		{200, "", ratelimit.Proven}, {404, "", ratelimit.Proven}, {401, "", ratelimit.Unknown},
		{200, "16", ratelimit.Unknown}, {200, "7", ratelimit.Unknown}, {200, "0", ratelimit.Proven},
		{200, "5", ratelimit.Proven}, {200, "16", ratelimit.Unknown}, {200, "", ratelimit.Proven}, {403, "", ratelimit.Proven},
	} {
		var v, next visit
		r, w := requestFor("X-Api-Key", "k1"), httptest.NewRecorder()
		l.admit(&v, w, r)
		if step.grpc != "" {
			w.Header().Set("Grpc-Status", step.grpc)
		}
		v.answering(w, step.status)
		if l.admit(&next, httptest.NewRecorder(), requestFor("X-Api-Key", "k1")); next.decision.Class != step.class {
			t.Errorf("after %d %s: got %v, want %v", step.status, step.grpc, next.decision.Class, step.class)
		}
	}
}

func TestLooks(t *testing.T) {
	one := lookOf(requestFor("User-Agent", "a", "Accept-Language", "b"))
	if again := lookOf(requestFor("User-Agent", "a", "Accept-Language", "b", "Cookie", "c=d")); again != one {
		t.Error("the same look was taken for another one")
	}
	for _, other := range [][]string{{"User-Agent", "b", "Accept-Language", "a"}, {"User-Agent", "ab"}, {"Accept-Language", "b"}, {}} {
		if lookOf(requestFor(other...)) == one {
			t.Errorf("%q looks the same", other)
		}
	}
	r := requestFor("User-Agent", "a", "Accept-Language", "b")
	r.TLS.CipherSuite++
	if lookOf(r) == one {
		t.Error("another cipher suite looks the same")
	}
}

// Whatever stands in an answer's header, a cookie never gets into what a shared
// cache may keep.
func FuzzMayCarryCookie(f *testing.F) {
	f.Add("private, max-age=60", 200, true)
	f.Add("public", 304, false)
	f.Add(`no-store="x", private="set-cookie"`, 200, true)
	f.Fuzz(func(t *testing.T, directives string, status int, navigates bool) {
		header, r := http.Header{"Cache-Control": {directives}}, requestFor()
		if navigates {
			r.Header.Set("Sec-Fetch-Mode", "navigate")
		}
		ok, how := mayCarryCookie(header, status, &visitor{method: r.Method, navigates: isNavigation(r)})
		words := strings.FieldsFunc(strings.ToLower(directives), func(r rune) bool { return strings.ContainsRune(", \t", r) })
		kept := directives != ""
		for _, w := range words {
			kept = kept && w != "private" && w != "no-store"
		}
		for _, field := range []string{"Surrogate-Control", "CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Edge-Control", "X-Accel-Expires"} {
			targeted := header.Clone()
			targeted.Set(field, "max-age=60")
			if ok, _ := mayCarryCookie(targeted, status, &visitor{method: r.Method, navigates: isNavigation(r)}); ok {
				t.Errorf("%q: a cookie with %s", directives, field)
			}
		}
		if ok && (kept || status == 304 || status == 101 || how == "" && directives == "") {
			t.Errorf("%q, %d: a cookie with %q", directives, status, how)
		}
	})
}

func TestConcernsCaches(t *testing.T) {
	for field, want := range map[string]bool{
		"Cache-Control": true, "expires": true, "CDN-Cache-Control": true, "{http.vars.field}": true,
		"Cache-*": true, "*-Control": true, "*": true, "*ache*": true,
		"Server": false, "X-*": false, "Set-Cookie": false, "*-Policy": false,
	} {
		if got := concernsCaches(field); got != want {
			t.Errorf("%s: got %v, want %v", field, got, want)
		}
	}
}

func FuzzLimitOptions(f *testing.F) {
	f.Add("reset_guard_limit {\nclient 10/s burst 100\nnetwork {\nbase 1/m\n}\ncookie rg 7d\nshared_ranges ::/8\nidentity {http.auth.user.id}\n}")
	f.Add("reset_guard_limit auto {\nheaders legacy\ndry_run\nzone a\n}")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		var o RateLimit
		d := caddyfile.NewDispenser(tokens)
		if d.Next(); o.unmarshalCaddyfile(d, limitDirective) != nil {
			return // refusing is fine; panicking or hanging is not
		}
		if _, err := o.limiter(); err != nil {
			t.Errorf("accepted and then refused: %v", err)
		}
	})
}

// What JSON can say and a Caddyfile cannot is looked at, too.
func TestLimitOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options RateLimit
		want    string
	}{
		"zone of the request":  {RateLimit{Zone: "{http.request.host}"}, "fixed name"},
		"mapped and too wide":  {RateLimit{SharedRanges: []string{"::ffff:0.0.0.0/90"}}, "wider than all of IPv4"},
		"a client of no burst": {RateLimit{Client: &ClientBudget{Rate: 1}}, "client burst"},
	} {
		if _, err := tc.options.limiter(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	for text, want := range map[string]string{
		"::ffff:192.0.2.0/120": "192.0.2.0/24", "::ffff:192.0.2.1": "192.0.2.1/32", "192.0.2.7/24": "192.0.2.0/24", "2001:db8::1/32": "2001:db8::/32",
	} {
		if got, err := parseRange(text); err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
	}
}

// A rate without a burst is one that any block takes.
func TestHighestClientRate(t *testing.T) {
	var o RateLimit
	d := caddyfile.NewTestDispenser("reset_guard_limit {\nclient 1000000/s\n}")
	d.Next()
	if err := o.unmarshalCaddyfile(d, limitDirective); err != nil || o.Client.Burst != ratelimit.MaxBurst {
		t.Errorf("got %+v, %v", o.Client, err)
	}
}

// Logs name networks, not addresses.
func TestCoarse(t *testing.T) {
	for given, want := range map[string]string{
		"192.0.2.77/32":         "192.0.2.0/24",
		"2001:db8:1:2::/64":     "2001:db8:1::/48",
		"2001:db8:1:2:3::1/128": "2001:db8:1::/48",
	} {
		if got := coarse(netip.MustParsePrefix(given)).String(); got != want {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
}

// A window is told once, whoever asks, and with what most were refused by.
func TestRefusalsAreSummedUp(t *testing.T) {
	start := time.Now()
	z, p := newSharedRates("", ratelimit.Size{}, start), ratelimit.DefaultPolicy()
	p.ClientBurst = 1
	r := ratelimit.Request{Addr: netip.MustParseAddr("192.0.2.1"), User: "somebody"}
	for range 4 {
		z.Decide(&p, &r, 0, start)
	}
	for _, step := range []struct {
		at      time.Duration
		refused uint64
	}{{5 * time.Second, 0}, {11 * time.Second, 3}, {12 * time.Second, 0}, {30 * time.Second, 0}} {
		sums, ok := z.due(start.Add(step.at), false)
		if ok != (step.refused > 0) || ok && (sums.refused != step.refused || sums.worst.level != ratelimit.LevelClient) {
			t.Errorf("at %v: got %+v, %v", step.at, sums, ok)
		}
	}
	for level := ratelimit.LevelNone; level <= ratelimit.LevelTotal; level++ {
		if hint := rateHint(level); hint == "" || len(hint) > 400 {
			t.Errorf("%v: a hint of %d bytes", level, len(hint))
		}
	}
}
