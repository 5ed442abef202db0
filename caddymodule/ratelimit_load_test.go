// SPDX-License-Identifier: Apache-2.0

// Two hundred people behind one address, over TLS, with an abuser among them or
// elsewhere: everybody is served but the abuser.

package caddymodule_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

const (
	sharedAddress = "192.0.2.1"
	otherAddress  = "203.0.113.9"
	sharedUsers   = 200
	loneUsers     = 100
	abuserRate    = 300
)

// crowd is who asks, each once a second.
type crowd struct {
	client *http.Client
	url    string
	people []*person
	count  atomic.Bool // after the warm-up
}

// person keeps a cookie, as a browser does.
type person struct {
	addr         string
	shared       bool
	cookie       string
	sent, served atomic.Int64 // since somebody counts
	known        atomic.Bool  // was served once
}

// serveLimited runs a site over TLS, with a certificate of Caddy's own, whose
// clients are whom they say they are.
func serveLimited(tb testing.TB, directives string) *server {
	tb.Helper()
	s := &server{addr: freeAddr(tb), log: filepath.Join(tb.TempDir(), "caddy.log")}
	s.load(tb, adapt(tb, fmt.Sprintf(`{
	admin off
	persist_config off
	skip_install_trust
	grace_period 1s
	auto_https disable_redirects
	log default {
		output file %s
		format json
		level INFO
	}
	servers {
		%s
	}
}
https://%s {
	tls internal
	%s
}
`, s.log, trusting, s.addr, directives)))
	return s
}

// ask sends a page request and tells whether it was served.
func (c *crowd) ask(ctx context.Context, addr, agent string, cookie *string) (served bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("X-Forwarded-For", addr)
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	if *cookie != "" {
		req.Header.Set("Cookie", "__Host-rg="+*cookie)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return false, err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	for _, set := range res.Cookies() {
		*cookie = set.Value
	}
	return res.StatusCode == http.StatusOK, nil
}

// visit lets a person ask once a second until ctx ends.
func (c *crowd) visit(ctx context.Context, p *person, phase time.Duration) {
	timer := time.NewTimer(phase)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(time.Second)
		counts := c.count.Load()
		served, err := c.ask(context.WithoutCancel(ctx), p.addr, "Mozilla/5.0 (everybody's)", &p.cookie)
		if served && err == nil {
			p.known.Store(true)
		}
		if counts {
			p.sent.Add(1)
			if served && err == nil {
				p.served.Add(1)
			}
		}
	}
}

// abuser asks far more than anybody.
type abuser struct {
	name string
	// next says who the i-th request pretends to be.
	next func(i int, addr string) (from, agent, cookie string)
	// keeps tells that it uses the cookie that it was given first.
	keeps bool
	// bound is how many requests it may get through in so many seconds.
	bound func(seconds float64) float64
	// leaves is the part of others' requests at its address that are served all the
	// same.
	leaves float64
}

// The pools of the shared address: 50 + 200 for proven clients, 150 + 0.2 x 200
// for others, six tenths of it for those with a cookie. People are counted in 256
// bits, of 200 with a standard error of 5 %: three of them may be counted in excess.
const (
	counted                  = 1.15 * sharedUsers
	provenPool, unprovenPool = 50 + counted, 150 + 0.2*counted
)

func abusers(farmed func(addr string) []string) []abuser {
	bin := func(pool float64) func(float64) float64 {
		return func(s float64) float64 { return max(10, 4*pool/8) + s*pool/8 }
	}
	whole := func(s float64) float64 { return (4+s)*unprovenPool + (3+s)*provenPool }
	return []abuser{
		{"no cookie", func(_ int, addr string) (string, string, string) { return addr, "bot", "" }, false, bin(0.4 * unprovenPool), 0.99},
		{"kept cookie", func(_ int, addr string) (string, string, string) { return addr, "bot", farmed(addr)[0] }, true, func(s float64) float64 { return 20 + 10*s }, 0.99},
		{"rotating cookie and User-Agent", func(i int, addr string) (string, string, string) {
			return addr, fmt.Sprint("bot ", i), strings.Repeat("A", 53) + "Q"
		}, false, whole, 0.99},
		{"50 farmed cookies", func(i int, addr string) (string, string, string) { return addr, "bot", farmed(addr)[i%50] }, true, func(s float64) float64 { return min(50*(20+10*s), whole(s)) }, 0.99},
		{"rotating in an IPv6 /64", func(i int, _ string) (string, string, string) {
			return fmt.Sprintf("2001:db8:0:1::%x", i+1), "bot", ""
		}, false, bin(0.4 * unprovenPool), 0.99},
	}
}

// attack sends so many requests a second, and counts those that pass. On a busy
// machine the last ones come late.
func (c *crowd) attack(ctx context.Context, a *abuser, addr string, rate float64, long time.Duration) (sent, passed int64, took time.Duration) {
	var got atomic.Int64
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	began := time.Now()
	for ctx.Err() == nil {
		for due := int64(time.Since(began).Seconds() * rate); sent < due; sent++ {
			from, agent, cookie := a.next(int(sent), addr)
			all.Go(func() {
				if ok, err := c.ask(context.WithoutCancel(ctx), from, agent, &cookie); ok && err == nil {
					got.Add(1)
				}
			})
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	all.Wait()
	return sent, got.Load(), time.Since(began)
}

// newCrowd makes the people. Without a warm-up they have proven themselves
// already.
func newCrowd(tb testing.TB, s *server, known bool) *crowd {
	tr := &http.Transport{TLSClientConfig: anyCertificate(), ForceAttemptHTTP2: true, DisableCompression: true}
	tb.Cleanup(tr.CloseIdleConnections)
	c := &crowd{client: &http.Client{Transport: tr, Timeout: 10 * time.Second}, url: "https://" + s.addr + "/"}
	for i := range sharedUsers + loneUsers {
		p := &person{addr: sharedAddress, shared: i < sharedUsers}
		if !p.shared {
			p.addr = net.IPv4(198, 18, byte(i), 1).String()
		}
		if known {
			p.cookie = caddymodule.MintForTLS(uint64(1000+i), p.addr, time.Now().Add(-30*time.Second), time.Now())
		}
		c.people = append(c.people, p)
	}
	return c
}

// result is how many requests of the people were served, and the worst off. It
// begins to count anew.
func (c *crowd) result(shared bool) (sent, served int64, worst float64) {
	worst = 1
	for _, p := range c.people {
		if p.shared == shared {
			s, n := p.served.Swap(0), p.sent.Swap(0)
			sent, served = sent+n, served+s
			worst = min(worst, float64(s)/float64(max(1, n)))
		}
	}
	return sent, served, worst
}

// TestManyPeopleBehindOneAddress makes the table of docs/limits.md. Its short form
// takes people for proven who in the long one prove themselves in 90 s of ordinary
// traffic.
func TestManyPeopleBehindOneAddress(t *testing.T) {
	leaveNothing(t)
	inFull := os.Getenv("RESET_GUARD_LONG") != ""
	warmUp, long := 300*time.Millisecond, 1300*time.Millisecond
	if inFull {
		warmUp, long = 90*time.Second, 15*time.Second
	}
	s := serveLimited(t, "reset_guard_limit {\nclient 10/s burst 20\n}\nrespond well")
	quiet(t, 0)
	farms := make(map[string][]string) // made before anybody reads it
	for at, addr := range []string{sharedAddress, otherAddress} {
		for i := range 50 {
			farms[addr] = append(farms[addr], caddymodule.MintForTLS(uint64(5000+100*at+i), addr, time.Now().Add(-10*time.Minute), time.Now()))
		}
	}
	c := newCrowd(t, s, !inFull)
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for k, p := range c.people {
		all.Go(func() { c.visit(ctx, p, time.Duration(k)*time.Second/time.Duration(len(c.people))) })
	}
	defer all.Wait()
	defer leave()
	// Certificate and connections are made before anything is counted.
	eventually(t, "first answers for all", func() bool {
		return !slices.ContainsFunc(c.people, func(p *person) bool { return !p.known.Load() })
	})
	for _, a := range abusers(func(addr string) []string { return farms[addr] }) {
		for j, addr := range []string{sharedAddress, otherAddress} {
			if strings.HasPrefix(a.name, "rotating in") && j == 0 {
				continue // it has a network of its own
			}
			where := map[string]string{sharedAddress: "shared", otherAddress: "elsewhere"}[addr]
			t.Run(a.name+"/"+where, func(t *testing.T) {
				pass(t.Context(), warmUp)
				warmUp = min(warmUp, 5*time.Second) // buckets get as full as they do while nothing happens
				c.count.Store(true)
				sent, passed, took := c.attack(ctx, &a, addr, abuserRate, long)
				c.count.Store(false)
				c.check(t, &a, sent, passed, took, inFull)
			})
		}
	}
}

// check needs some requests of each person to say anything of the worst off.
func (c *crowd) check(t *testing.T, a *abuser, sent, passed int64, took time.Duration, inFull bool) {
	t.Helper()
	sharedSent, sharedServed, worst := c.result(true)
	loneSent, loneServed, _ := c.result(false)
	t.Logf("| %s | %.2f %% | %.2f %% | %.0f %% | %.1f of %.0f |", t.Name(), 100*float64(sharedServed)/float64(sharedSent),
		100*float64(loneServed)/float64(loneSent), 100*worst, float64(passed)/took.Seconds(), float64(sent)/took.Seconds())
	if sharedSent == 0 || float64(sharedServed) < a.leaves*float64(sharedSent) {
		t.Errorf("at the shared address %d of %d were served, want %.0f %%", sharedServed, sharedSent, 100*a.leaves)
	}
	if loneServed < loneSent || loneSent == 0 {
		t.Errorf("of those alone %d of %d were served, want all", loneServed, loneSent)
	}
	if inFull && worst < a.leaves-0.04 {
		t.Errorf("the worst off was served %.0f %%, want 95 %%", 100*worst)
	}
	if bound := a.bound(took.Seconds()); float64(passed) > bound {
		t.Errorf("the abuser got %d of %d through, want %.0f at most", passed, sent, bound)
	}
}
