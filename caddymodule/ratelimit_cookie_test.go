// SPDX-License-Identifier: Apache-2.0

// The cookie of limits: who gets it, who sees it, and what it looks like.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

// setCookie is our cookie in an answer; "" if there is none.
func (a answer) setCookie() string {
	for _, line := range a.header.Values("Set-Cookie") {
		if strings.HasPrefix(line, "rg=") || strings.HasPrefix(line, "__Host-rg=") {
			return line
		}
	}
	return ""
}

var cookieForm = regexp.MustCompile(`^rg=[\w-]{54}; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax$`)

func TestCookieOnlyWhereNoCacheKeepsIt(t *testing.T) {
	navigate := []string{"Sec-Fetch-Mode", "navigate"}
	for name, tc := range map[string]struct {
		method  string
		request []string
		answer  string // Cache-Control
		status  int
		want    bool
		caching string
	}{
		"ok/page":                {"GET", navigate, "", 200, true, "private"},
		"ok/page of old browser": {"GET", []string{"Accept", "text/html,*/*"}, "", 200, true, "private"},
		"ok/private":             {"GET", nil, "max-age=60, private", 200, true, "max-age=60, private"},
		"ok/no-store":            {"GET", nil, "no-store", 200, true, "no-store"},
		"ok/form":                {"POST", nil, "", 200, true, ""},
		"ok/redirect":            {"GET", navigate, "", 302, true, "private"},
		"no/picture":             {"GET", []string{"Sec-Fetch-Mode", "no-cors"}, "", 200, false, ""},
		"no/program":             {"GET", nil, "", 200, false, ""},
		"no/public page":         {"GET", navigate, "public, max-age=60", 200, false, "public, max-age=60"},
		"no/fresh page":          {"GET", navigate, "max-age=60", 200, false, "max-age=60"},
		"no/some fields private": {"GET", navigate, `private="set-cookie"`, 200, false, `private="set-cookie"`},
		"no/not modified":        {"GET", navigate, "private", 304, false, "private"},
		"no/cdn":                 {"GET", navigate, "private\nCDN-Cache-Control: max-age=60", 200, false, "private"},
		"no/error":               {"GET", navigate, "no-store", 500, false, "no-store"},
	} {
		t.Run(name, func(t *testing.T) {
			site := "reset_guard_limit {\nclient 10/s\n}\nreverse_proxy " + origin(t, func(w http.ResponseWriter, _ *http.Request) {
				if caching, other, _ := strings.Cut(tc.answer, "\n"); caching != "" {
					w.Header().Set("Cache-Control", caching)
					if field, value, ok := strings.Cut(other, ": "); ok {
						w.Header().Set(field, value)
					}
				}
				w.WriteHeader(tc.status)
			})
			s := serve(t, site)
			client := newClient(t)
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			a := do(t, client, newRequest(t, tc.method, s.url("/"), nil, tc.request...))
			expect(t, "status", a.status, tc.status)
			expect(t, "caching", a.header.Get("Cache-Control"), tc.caching)
			if got := a.setCookie(); tc.want != cookieForm.MatchString(got) {
				t.Errorf("got cookie %q, want one: %v", got, tc.want)
			}
		})
	}
}

// Handlers of Caddy that change the header last can make public what was not.
func TestCookieBehindWhatChangesTheHeader(t *testing.T) {
	for name, tc := range map[string]struct {
		directives string
		want       bool
	}{
		"no/deferred":           {"header {\nCache-Control \"public, max-age=3600\"\n-Server\n}", false},
		"no/deletes it":         {"header -Cache-*", false},
		"no/in the second one":  {"header -Server\nheader {\nExpires 0\ndefer\n}", false},
		"no/intercept":          {"intercept {\n@e status 500\nreplace_status @e 503\n}", false},
		"ok/nothing of caches":  {"header {\nX-Frame-Options deny\n-Server\n}\nencode", true},
		"no/before the handler": {"header Cache-Control \"public, max-age=3600\"", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, site := range []string{"reset_guard_limit {\nclient 10/s\n}\nrespond well", "reset_guard %s {\nrate_limit {\nclient 10/s\n}\n}"} {
				inside := strings.Contains(site, "%s")
				if inside {
					site = fmt.Sprintf(site, origin(t, named("origin")))
				}
				s := serve(t, tc.directives+"\n"+site)
				a := s.get(t, "/", "Sec-Fetch-Mode", "navigate")
				expect(t, "status", a.status, http.StatusOK)
				want := tc.want || !inside && strings.HasPrefix(tc.directives, "intercept") // which Caddy sorts behind it
				if got := a.setCookie(); want != (got != "") {
					t.Errorf("got cookie %q with Cache-Control %q, want one: %v", got, a.header.Get("Cache-Control"), want)
				}
			}
		})
	}
}

// A client that keeps its cookie keeps its identity; one without gets another.
func TestCookieIsKeptFromOrigins(t *testing.T) {
	seen := make(chan http.Header, 4)
	for name, site := range map[string]string{
		"reset_guard":       "reset_guard %s {\nrate_limit {\nclient 10/s\n}\n}",
		"reset_guard_limit": "reset_guard_limit {\nclient 10/s\n}\nreverse_proxy %s",
		"both":              "reset_guard_limit {\nclient 10/s\n}\nreset_guard %s {\nrate_limit {\nclient 10/s\nzone other\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := serveConfig(t, "", trusting, fmt.Sprintf("log\n"+site, origin(t, func(w http.ResponseWriter, r *http.Request) {
				seen <- r.Header.Clone()
			})))
			a := s.get(t, "/", "Sec-Fetch-Mode", "navigate")
			expect(t, "cookie before", (<-seen).Get("Cookie"), "")
			expect(t, "cookies set", len(a.header.Values("Set-Cookie")), 1)
			cookie, _, _ := strings.Cut(a.setCookie(), ";")
			a = s.get(t, "/", "Cookie", "a=b; "+cookie+"; c=d; __Host-"+cookie, "Sec-Fetch-Mode", "navigate")
			expect(t, "cookie sent on", (<-seen).Get("Cookie"), "a=b; c=d")
			expect(t, "a new cookie", a.setCookie(), "")
			s.get(t, "/", "Cookie", cookie)
			if got, ok := (<-seen)["Cookie"]; ok {
				t.Errorf("the origin got an empty Cookie field: %q", got)
			}
			_, secret, _ := strings.Cut(cookie, "=")
			eventually(t, "access log", func() bool { return len(s.told(t, "handled request")) == 3 })
			for _, line := range s.lines(t) {
				if strings.Contains(fmt.Sprint(line), secret) {
					t.Errorf("the cookie is in a log line: %v", line)
				}
			}
		})
	}
}

// An application's own cookie of that name is none of ours.
func TestCookieOfAnApplication(t *testing.T) {
	seen := make(chan string, 1)
	addr := origin(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Cookie") })
	for name, tc := range map[string]struct{ options, sent, want string }{
		"another form":     {"client 10/s", "rg=theirs; a=b", "rg=theirs; a=b"},
		"the name of TLS":  {"client 10/s", "__Host-rg=TOKEN; a=b", "a=b"},
		"no cookie":        {"client 10/s\ncookie off", "rg=TOKEN", "rg=TOKEN"},
		"another name":     {"client 10/s\ncookie mine", "rg=TOKEN; mine=TOKEN", "rg=TOKEN"},
		"ours among those": {"client 10/s", "rg=theirs; rg=TOKEN", "rg=theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "reset_guard "+addr+" {\nrate_limit {\n"+tc.options+"\n}\n}")
			fill := strings.NewReplacer("TOKEN", "I"+strings.Repeat("A", 53)) // nobody signed it
			s.get(t, "/", "Cookie", fill.Replace(tc.sent))
			expect(t, "cookie at the origin", <-seen, fill.Replace(tc.want))
		})
	}
}

// Caddy copies requests for the log before any handler sees them: who logs
// credentials has to leave our cookie out, as the documentation shows.
func TestCookieIsLeftOutOfLogs(t *testing.T) {
	const filter = `log {
	output file %s
	format filter {
		request>headers>Cookie cookie {
			delete rg
			delete __Host-rg
		}
		resp_headers>Set-Cookie cookie {
			delete rg
			delete __Host-rg
		}
	}
}
reset_guard_limit {
	client 10/s
}
respond well`
	path := filepath.Join(t.TempDir(), "access.log")
	s := serveConfig(t, "", "log_credentials", fmt.Sprintf(filter, path))
	a := s.get(t, "/", "Sec-Fetch-Mode", "navigate")
	cookie, _, _ := strings.Cut(a.setCookie(), ";")
	s.get(t, "/", "Cookie", "a=b; "+cookie)
	var text []byte
	eventually(t, "access log", func() bool {
		text, _ = os.ReadFile(path)
		return bytes.Count(text, []byte("\n")) == 2
	})
	_, secret, _ := strings.Cut(cookie, "=")
	if secret == "" || bytes.Contains(text, []byte(secret)) || !bytes.Contains(text, []byte("a=b")) {
		t.Errorf("want the other cookie and not %q: %s", secret, text)
	}
}

// Over TLS the cookie has the prefix that browsers bind to this host.
func TestCookieOverTLS(t *testing.T) {
	s := serveSecure(t, "reset_guard_limit {\nclient 1/m burst 1\n}\nrespond well")
	for _, version := range secureClients {
		t.Run(version.name, func(t *testing.T) {
			client := &http.Client{Transport: version.make(t)}
			a := do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, "Sec-Fetch-Mode", "navigate"))
			line := a.setCookie()
			if !strings.HasPrefix(line, "__Host-rg=") || !strings.HasSuffix(line, "; HttpOnly; SameSite=Lax; Secure") || strings.Contains(line, "Domain") {
				t.Errorf("got %q", line)
			}
			header := []string{"Cookie", "__Host-rg=" + caddymodule.MintForTLS(uint64(len(version.name)*100+int(version.name[5])), "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
			expect(t, "first", do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...)).status, http.StatusOK)
			refused := do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil, header...))
			expect(t, "second", refused.status, http.StatusTooManyRequests)
			expect(t, "policy", refused.header.Get("RateLimit-Policy"), `"client";q=1;w=60`)
		})
	}
}

// What is no cookie of ours changes nothing, however much there is of it.
func TestHostileCookies(t *testing.T) {
	s := serveConfig(t, "", trusting+"\nmax_header_size 1MiB", "reset_guard_limit {\nclient 1/m burst 1\n}\nrespond well")
	good := caddymodule.MintForTest(77, "192.0.2.1", time.Now().Add(-time.Hour), time.Now())
	forged := good[:len(good)-3] + "xyz"
	for name, cookie := range map[string]string{
		"forged":              "rg=" + forged,
		"of another network":  "rg=" + caddymodule.MintForTest(78, "198.51.100.1", time.Now(), time.Now()),
		"64 KiB":              "rg=" + strings.Repeat("x", 64<<10),
		"64 KiB of others":    strings.Repeat("a=b; ", 13_000) + "rg=" + good,
		"a thousand":          strings.Repeat("rg="+forged+"; ", 1000) + "rg=" + good,
		"wrong length":        "rg=" + good + "A",
		"name in other words": "xrg=" + good,
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 { // would be refused the second time if it counted as proven
				expect(t, "status", s.get(t, "/", "X-Forwarded-For", "192.0.2.1", "Cookie", cookie).status, http.StatusOK)
			}
		})
	}
	expect(t, "the real one", s.get(t, "/", "X-Forwarded-For", "192.0.2.1", "Cookie", "rg="+good).status, http.StatusOK)
	expect(t, "replayed", s.get(t, "/", "X-Forwarded-For", "192.0.2.9", "Cookie", "rg="+good).status, http.StatusTooManyRequests)
}
