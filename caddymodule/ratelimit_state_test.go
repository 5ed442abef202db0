// SPDX-License-Identifier: Apache-2.0

// What limits remember, who shares it, and how it is told, by the admin API, as metrics
// and in the log.

package caddymodule_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

func TestZonesAreShared(t *testing.T) {
	s := serve(t, `handle /a {
	reset_guard_limit {
		client 1/m burst 1
	}
	respond a
}
handle /b {
	reset_guard_limit {
		client 1/m burst 1
	}
	respond b
}
handle /c {
	reset_guard_limit {
		client 1/m burst 1
		zone other
	}
	respond c
}`)
	header := []string{"Cookie", "rg=" + caddymodule.MintForTest(1, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
	expect(t, "a", s.get(t, "/a", header...).status, http.StatusOK)
	expect(t, "b", s.get(t, "/b", header...).status, http.StatusTooManyRequests)
	expect(t, "c", s.get(t, "/c", header...).status, http.StatusOK)
}

// Two limits in one zone count a request once if they are the same, and both if they
// are not.
func TestLimitsInARow(t *testing.T) {
	for name, tc := range map[string]struct {
		second string
		want   int // requests of a client that pass
	}{
		"the same":      {"", 4},
		"who is asked":  {"identity {http.auth.user.id}", 2},
		"counting only": {"dry_run", 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "route {\nreset_guard_limit {\nclient 1/m burst 4\n}\nreset_guard_limit {\nzone other\n}\nreset_guard_limit {\nclient 1/m burst 4\n"+tc.second+"\n}\nrespond well\n}")
			header := []string{"Cookie", "rg=" + caddymodule.MintForTest(1, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
			passed := 0
			for range 6 {
				if s.get(t, "/", header...).status == http.StatusOK {
					passed++
				}
			}
			expect(t, "passed", passed, tc.want)
		})
	}
}

// A client, and an address, have one bucket in a zone, which is of one size.
func TestOneBudgetInAZone(t *testing.T) {
	leaveNothing(t)
	s := serveAdmin(t, "", "reset_guard_limit\nrespond well")
	for directives, ok := range map[string]bool{
		"reset_guard_limit /a {\nclient 5/s\n}\nreset_guard_limit /b {\nclient 6/s\n}\nrespond well":            false,
		"reset_guard_limit /a {\nclient 5/s\n}\nreset_guard_limit /b {\nclient 6/s\nzone b\n}\nrespond well":    true,
		"reset_guard_limit /a {\nclient 10/s burst 100\n}\nreset_guard_limit /b {\ncookie off\n}\nrespond well": true,
		"reset_guard_limit /a {\nclient 10/s burst 100\n}\nreset_guard_limit /b auto\nrespond well":             false,
		"reset_guard_limit /a {\nnetwork {\nunproven 1/s\n}\n}\nreset_guard_limit /b\nrespond well":             false,
	} {
		err := s.tryLoad(t, directives)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "zone <name>") {
			t.Errorf("%s: got %v", directives, err)
		}
	}
}

// Sites with the same upstreams whose budgets differ count apart: nobody gets round the
// strict one by asking at the other, whose bucket is of another size.
func TestOtherBudgetsCountApart(t *testing.T) {
	addr := origin(t, named("origin"))
	s := serve(t, fmt.Sprintf("handle /login {\nreset_guard %[1]s {\nrate_limit {\nclient 1/m burst 1\n}\n}\n}\nhandle {\nreset_guard %[1]s\n}", addr))
	header := []string{"Cookie", "rg=" + caddymodule.MintForTest(1, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
	passed := 0
	for range 10 {
		expect(t, "other page", s.get(t, "/", header...).status, http.StatusOK)
		if s.get(t, "/login", header...).status == http.StatusOK {
			passed++
		}
	}
	expect(t, "passed at the strict one", passed, 1)
}

func TestLimitsAreTold(t *testing.T) {
	leaveNothing(t)
	s := serveAdmin(t, "servers {\n"+trusting+"\n}", "reset_guard_limit {\nzone told\nclient 1/m burst 1\n}\nrespond well")
	for id := range uint64(5) {
		for range 2 {
			s.get(t, "/", proven("192.0.2.7", 100+id)...)
		}
	}
	var zones []struct {
		Zone      string
		Decisions []struct {
			Class, Budget, Decision string
			Count                   int
		}
		Budgets   []struct{ Mode string }
		Offenders []struct {
			Prefix  string
			Refused int
		}
		Shared []struct {
			Prefix string
			Users  int
		}
	}
	list := func() {
		zones = nil
		a := s.ask(t, http.MethodGet, "/reset_guard/limits?zone=told", "")
		if err := json.Unmarshal([]byte(a.body), &zones); err != nil || len(zones) != 1 {
			t.Fatalf("%v: %s", err, a.body)
		}
	}
	eventually(t, "the users", func() bool { // counted when somebody asks a while later
		s.get(t, "/", proven("192.0.2.7", 100)...)
		list()
		// Two of them may have the same one of 256 bits.
		return len(zones[0].Shared) == 1 && (zones[0].Shared[0].Users == 4 || zones[0].Shared[0].Users == 5)
	})
	z := zones[0]
	expect(t, "mode", z.Budgets[0].Mode, "fixed")
	expect(t, "offender", z.Offenders[0].Prefix, "192.0.2.7/32")
	refused := slices.IndexFunc(z.Decisions, func(d struct {
		Class, Budget, Decision string
		Count                   int
	}) bool {
		return d.Class == "proven" && d.Budget == "client" && d.Decision == "refused"
	})
	if refused < 0 || z.Decisions[refused].Count < 5 {
		t.Errorf("got %+v", z.Decisions)
	}
	expect(t, "another zone", strings.TrimSpace(s.ask(t, http.MethodGet, "/reset_guard/limits?zone=none", "").body), "[]")
	expect(t, "a misspelt parameter", s.ask(t, http.MethodGet, "/reset_guard/limits?zon=none", "").status, http.StatusBadRequest)

	metrics := s.ask(t, http.MethodGet, "/metrics", "").body
	for _, want := range []string{
		`reset_guard_rate_limit_decisions_total{budget="none",class="proven",decision="allowed",zone="told"} 5`,
		`reset_guard_rate_limit_decisions_total{budget="client",class="proven",decision="refused",zone="told"} `,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(metrics, "192.0.2") {
		t.Error("an address is in the metrics")
	}

	s.reload(t, "respond well") // ends the configuration, which tells what is left
	lines := s.told(t, "requests refused by limits")
	if len(lines) == 0 || len(lines) > 3 {
		t.Fatalf("got %d lines, want one for each ten seconds", len(lines))
	}
	l := lines[0]
	expect(t, "zone", l.text("zone"), "told")
	expect(t, "prefix", l.text("client_prefix"), "192.0.2.0/24")
	expect(t, "class and budget", l.text("class")+" "+l.text("budget"), "proven client")
	if !strings.Contains(l.text("hint"), "raise `client`") {
		t.Errorf("got hint %q", l.text("hint"))
	}
}

func TestDryRunIsTold(t *testing.T) {
	s := serve(t, "reset_guard_limit {\nzone dry\nclient 1/m burst 1\ndry_run\n}\nrespond well")
	header := []string{"Cookie", "rg=" + caddymodule.MintForTest(4, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
	for range 3 {
		s.get(t, "/", header...)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	would, refused := 0.0, 0.0 // a window may have ended between them
	for _, line := range s.told(t, "requests would be refused by limits") {
		n, _ := line["would_refuse"].(float64)
		m, _ := line["refused"].(float64)
		would, refused = would+n, refused+m
	}
	if would != 2 || refused != 0 {
		t.Errorf("got %v that would be refused and %v that were, want 2 and 0", would, refused)
	}
}

// broken is a storage from which nothing can be loaded, or that hangs.
type broken struct {
	certmagic.Storage
	err  error
	hang chan struct{}
}

// brokenStorage is what the module of that name uses.
var brokenStorage atomic.Pointer[broken]

type brokenModule struct{}

func init() { caddy.RegisterModule(brokenModule{}) }

func (brokenModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.broken", New: func() caddy.Module { return new(brokenModule) }}
}

func (*brokenModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return nil }

func (*brokenModule) CertMagicStorage() (certmagic.Storage, error) {
	b := *brokenStorage.Load()
	b.Storage = caddy.DefaultStorage
	return &b, nil
}

func (f *broken) Load(context.Context, string) ([]byte, error) {
	if f.hang != nil {
		<-f.hang
	}
	return nil, f.err
}

// Storage is nobody's problem but that of who looks at the log.
func TestLimitsWithoutStorage(t *testing.T) {
	for name, storage := range map[string]*broken{
		"refused": {err: errors.New("connection refused")},
		"hangs":   {err: fs.ErrPermission, hang: make(chan struct{})},
	} {
		t.Run(name, func(t *testing.T) {
			brokenStorage.Store(storage)
			if storage.hang != nil {
				t.Cleanup(func() { close(storage.hang) })
			}
			began := time.Now()
			s := serveConfig(t, "storage broken", "", "reset_guard_limit {\nclient 1/m burst 1\n}\nrespond well")
			if took := time.Since(began); took > 9*time.Second { // storage is waited for 10 s elsewhere
				t.Errorf("starting took %v", took)
			}
			a := s.get(t, "/", "Sec-Fetch-Mode", "navigate")
			expect(t, "status", a.status, http.StatusOK)
			if name == "hangs" {
				expect(t, "cookie without keys", a.setCookie(), "")
				return
			}
			if a.setCookie() == "" {
				t.Error("no cookie, although keys of the process would do")
			}
			eventually(t, "the log line", func() bool {
				return len(s.told(t, "the keys of the limits' cookies are not in storage")) == 1
			})
		})
	}
}

// What one instance has proven, another one knows that has the same storage, and
// so does the same one after a restart.
func TestKeysAreInStorage(t *testing.T) {
	const site = "reset_guard_limit {\nclient 1/m burst 1\n}\nrespond well"
	s := serve(t, site)
	header := []string{"Cookie", "rg=" + caddymodule.MintForTest(5, "127.0.0.1", time.Now().Add(-time.Hour), time.Now())}
	expect(t, "first", s.get(t, "/", header...).status, http.StatusOK)
	if err := caddy.Stop(); err != nil { // with it goes all that is known
		t.Fatal(err)
	}
	s = serve(t, site)
	expect(t, "first after a restart", s.get(t, "/", header...).status, http.StatusOK)
	a := s.get(t, "/", header...)
	expect(t, "second, as it is still proven", a.status, http.StatusTooManyRequests)
}
