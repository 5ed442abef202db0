// SPDX-License-Identifier: Apache-2.0

// Ejection under each of Caddy's selection policies, and beside Caddy's own
// checks and limits.

package caddymodule_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// policyKeys is how many different clients, paths and headers are used.
const policyKeys = 60

// bindsKeys tells which policies send each key to an upstream of its own.
var bindsKeys = map[string]bool{
	"ip_hash": true, "client_ip_hash": true, "uri_hash": true, "query": true, "header": true, "cookie": true,
}

// policyTrial is a site with five origins, the first of which fails for a while.
type policyTrial struct {
	*testing.T
	*server
	policy  string
	bad     *faultinject.Origin
	clients [policyKeys]*http.Client // for ip_hash, each with an address of its own
	cookies [policyKeys]string
}

func newPolicyTrial(t *testing.T, policy, options string) *policyTrial {
	p := &policyTrial{T: t, policy: policy}
	p.bad = startOrigin(t, faultinject.Config{Handler: named("0")})
	addrs := []string{p.bad.Addr()}
	for i := 1; i < 5; i++ {
		addrs = append(addrs, origin(t, named(fmt.Sprint(i))))
	}
	serverOptions := "trusted_proxies static 127.0.0.0/8"
	if policy == "ip_hash" {
		serverOptions = "listener_wrappers {\n proxy_protocol {\n allow 127.0.0.0/8\n }\n }"
	}
	p.server = serveConfig(t, "", serverOptions, fmt.Sprintf(
		"%s %s {\n lb_policy %s%s\n eject {\n base 1s\n max 1s\n slow_start off\n }\n }", guarded, join(addrs...), policy, options))
	for i := range p.clients {
		p.clients[i] = newClient(t)
		if policy == "ip_hash" {
			p.clients[i].Transport = announcing(fmt.Sprint("203.0.113.", i))
		}
	}
	return p
}

// announcing connects as a load balancer does that tells the client's address.
func announcing(ip string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 4000 80\r\n", ip); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}}
}

// ask sends the request of a key, with the cookie that it got first, and returns the name of who answered.
func (p *policyTrial) ask(i int) string {
	p.Helper()
	req := policyRequest(p.T, p.server, i)
	if p.cookies[i] != "" {
		req.Header.Set("Cookie", p.cookies[i])
	}
	got := do(p, p.clients[i], req)
	expect(p, "status", got.status, http.StatusOK)
	if p.policy == "cookie" && p.cookies[i] == "" {
		p.cookies[i] = cookieOf(p, got)
	}
	return got.body
}

// places tells who answers each key.
func (p *policyTrial) places() (at [policyKeys]string) {
	for i := range at {
		at[i] = p.ask(i)
	}
	return at
}

// compare wants the keys of all but the first origin where they were.
func (p *policyTrial) compare(when string, i int, got, before string) {
	p.Helper()
	if bindsKeys[p.policy] && before != "0" && got != before {
		p.Errorf("%s key %d went to origin %s, want %s as before", when, i, got, before)
	}
}

func TestEjectionUnderEachPolicy(t *testing.T) {
	for _, policy := range stockPolicies {
		options := policy.options
		if policy.name == "weighted_round_robin" {
			options = " 2 1 1 1 1"
		}
		t.Run(policy.name, func(t *testing.T) {
			leaveNothing(t)
			p := newPolicyTrial(t, policy.name, options)
			before := p.places()
			if bindsKeys[policy.name] && len(uniq(before[:])) < 3 {
				t.Fatalf("the keys are of no use: all lead to %v", uniq(before[:]))
			}
			if err := p.bad.SetFault(faultinject.CloseAfterRequest, 1); err != nil {
				t.Fatal(err)
			}
			until := p.untilOut()
			p.keepTo(before, until)
			if err := p.bad.SetFault(faultinject.None, 1); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the origin returns", func() bool {
				p.places()
				return len(p.told(t, "upstream restored")) > 0
			})
			p.comesBack(before)
		})
	}
}

func uniq(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// untilOut sends requests until the first origin is ejected, and returns when
// that will be over.
func (p *policyTrial) untilOut() time.Time {
	p.Helper()
	for i := range 10_000 {
		p.ask(i % policyKeys)
		if lines := p.told(p, "upstream ejected"); len(lines) > 0 {
			expect(p, "ejected", lines[0].text("upstream"), p.bad.Addr())
			until, _ := lines[0]["until"].(float64)
			return time.UnixMilli(int64(1000 * until))
		}
	}
	p.Fatal("the origin was not ejected")
	panic("unreachable")
}

// keepTo sends each key's request as long as the ejection lasts.
func (p *policyTrial) keepTo(before [policyKeys]string, until time.Time) {
	p.Helper()
	asked := 0
	for i := range policyKeys {
		n := p.bad.Requests()
		got := p.ask(i)
		if time.Now().After(until) {
			break // a request may be a trial from here on
		}
		asked++
		expect(p, "requests at the ejected origin", p.bad.Requests()-n, 0)
		p.compare("while one is out,", i, got, before[i])
	}
	if asked == 0 {
		p.Error("the ejection was over before it could be looked at")
	}
}

// comesBack wants every key where it was, and the origin among those asked.
func (p *policyTrial) comesBack(before [policyKeys]string) {
	p.Helper()
	n := p.bad.Requests()
	after := p.places()
	if p.bad.Requests() == n {
		p.Error("the origin that has returned gets no requests")
	}
	if !bindsKeys[p.policy] {
		return
	}
	for i := range after {
		if after[i] != before[i] {
			p.Errorf("after the return, key %d went to origin %s, want %s as before", i, after[i], before[i])
		}
	}
}

// moodyOrigin resets requests while it is bad. It always passes checks.
type moodyOrigin struct {
	bad    atomic.Bool
	served atomic.Int32 // checks excepted
}

func (o *moodyOrigin) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/health" {
		if o.served.Add(1); o.bad.Load() {
			panic(http.ErrAbortHandler)
		}
	}
	named("good")(w, r)
}

func (o *moodyOrigin) requests() int { return int(o.served.Load()) }

// limited is a site whose first origin is ejected, and stays so although it
// would answer.
func limited(t *testing.T, options string, upstreams ...string) (*server, *moodyOrigin) {
	o := new(moodyOrigin)
	o.bad.Store(true)
	bad := origin(t, o.serve)
	s := serve(t, fmt.Sprintf("%s %s {\n %s\n %s\n }", guarded, join(append([]string{bad}, upstreams...)...), longEjection, options))
	expect(t, "ejected", untilEjected(t, s), bad)
	o.bad.Store(false)
	return s, o
}

// An origin that has as many requests as it may have gets no more while another
// is ejected; when all others are full, the ejected one is better than none.
func TestEjectionBesideRequestLimit(t *testing.T) {
	for _, policy := range []string{"", "lb_policy random", "lb_policy first"} {
		t.Run(policy, func(t *testing.T) {
			leaveNothing(t)
			b := newBusyOrigin()
			var busy [2]atomic.Int32
			full := func(i int) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/busy" {
						busy[i].Add(1)
						b.serve(w, r)
						return
					}
					named("good")(w, r)
				}
			}
			s, bad := limited(t, policy+"\n unhealthy_request_count 1", origin(t, full(0)), origin(t, full(1)))
			client, done := newClient(t), make(chan answer, 2)
			before := bad.requests()
			for range 2 {
				stayOut(t, s, bad.requests)
				req := newRequest(t, http.MethodGet, s.url("/busy"), nil)
				go func() { done <- do(t, client, req) }()
				receive(t, "a request that takes long", b.arrived)
			}
			for i := range busy {
				expect(t, fmt.Sprintf("long requests at origin %d", i), busy[i].Load(), 1)
			}
			expect(t, "requests that the ejected origin got", bad.requests()-before, 0)
			expect(t, "body with all others full", s.get(t, "/").body, "good")
			expect(t, "requests that the ejected origin got", bad.requests()-before, 1)
			close(b.letGo)
			for range 2 {
				expect(t, "body", receive(t, "its answer", done).body, "done")
			}
		})
	}
}

// Neither an ejected origin nor one that fails its checks is asked while there
// is a third; checks do not bring back what fails otherwise.
func TestEjectionBesideActiveChecks(t *testing.T) {
	for _, policy := range []string{"", "lb_policy random", "lb_policy first"} {
		t.Run(policy, func(t *testing.T) {
			leaveNothing(t)
			var sick atomic.Bool
			var served atomic.Int32
			checked := origin(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/health" {
					served.Add(1)
				} else if sick.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				named("good")(w, r)
			})
			s, bad := limited(t, policy+"\n health_uri /health\n health_interval 10ms", checked, origin(t, named("good")))
			before := bad.requests()
			sick.Store(true)
			eventually(t, "the sick one is asked no more", func() bool {
				n := served.Load()
				for range 20 {
					expect(t, "body", s.get(t, "/").body, "good")
				}
				return served.Load() == n
			})
			expect(t, "requests that the ejected origin got", bad.requests()-before, 0)
			expect(t, "ejections", len(s.told(t, "upstream ejected")), 1)
			expect(t, "origins restored", len(s.told(t, "upstream restored")), 0)
		})
	}
}
