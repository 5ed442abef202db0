// SPDX-License-Identifier: Apache-2.0

// Upstreams that change: dynamic ones from modules and from DNS, and addresses
// with placeholders.

package caddymodule_test

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func init() { caddy.RegisterModule(sourceModule{}) }

// source is a list of upstreams that a test changes at will.
type source struct {
	name   string
	asked  atomic.Int32
	resets atomic.Int32
	addrs  atomic.Pointer[[]string]
}

// sources are the ones in use, by name.
var sources sync.Map

func newSource(tb testing.TB, addrs ...string) *source {
	s := &source{name: strings.ReplaceAll(tb.Name(), " ", "_")}
	s.set(addrs...)
	sources.Store(s.name, s)
	tb.Cleanup(func() { sources.Delete(s.name) })
	return s
}

func (s *source) set(addrs ...string) { s.addrs.Store(&addrs) }

// String is what stands behind the word dynamic.
func (s *source) String() string { return "stock_test " + s.name }

// sourceModule is the module that looks a source up.
type sourceModule struct {
	Name string `json:"name"`
}

func (sourceModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.stock_test",
		New: func() caddy.Module { return new(sourceModule) },
	}
}

func (m *sourceModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&m.Name) {
		return d.ArgErr()
	}
	return nil
}

func (m *sourceModule) source() *source {
	s, _ := sources.Load(m.Name)
	return s.(*source)
}

func (m *sourceModule) GetUpstreams(*http.Request) ([]*reverseproxy.Upstream, error) {
	s := m.source()
	s.asked.Add(1)
	var ups []*reverseproxy.Upstream
	for _, addr := range *s.addrs.Load() {
		ups = append(ups, &reverseproxy.Upstream{Dial: addr})
	}
	return ups, nil
}

func (m *sourceModule) ResetCache(*http.Request) error {
	m.source().resets.Add(1)
	return nil
}

var _ reverseproxy.CachingUpstreamSource = (*sourceModule)(nil)

func TestStockDynamicUpstreams(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		src := newSource(t, origin(t, named("first")))
		s := serve(t, fmt.Sprintf("%s {\n dynamic %s\n }", directive, src))
		expect(t, "body", s.get(t, "/").body, "first")
		src.set(origin(t, named("second")))
		expect(t, "body after a change", s.get(t, "/").body, "second")
		src.set()
		expect(t, "status without upstreams", s.get(t, "/").status, http.StatusServiceUnavailable)
	})
}

// The objects of dynamic upstreams are made anew for each try; the guard still
// knows which of them it has tried.
func TestGuardFailsOverDynamicUpstreams(t *testing.T) {
	for _, fault := range []faultinject.Fault{faultinject.Refuse, faultinject.CloseAfterRequest} {
		t.Run(string(fault), func(t *testing.T) {
			leaveNothing(t)
			bad := startOrigin(t, faultinject.Config{Fault: fault})
			src := newSource(t, bad.Addr(), origin(t, named("good")))
			s := serve(t, fmt.Sprintf("%s {\n dynamic %s\n lb_policy first\n }", guarded, src))
			for range 5 {
				expect(t, "body", s.get(t, "/").body, "good")
			}
			expect(t, "resets of the source's cache", src.resets.Load(), 5)
			expect(t, "lines", len(s.faults(t)), 5)
		})
	}
}

// Passive health checks remember dynamic upstreams too.
func TestStockDynamicUpstreamMarkedDown(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		src := newSource(t, deadAddr(t))
		s := serve(t, fmt.Sprintf("%s {\n dynamic %s\n lb_policy first\n fail_duration 1m\n max_fails 1\n }", directive, src))
		s.get(t, "/")
		expect(t, "status", s.get(t, "/").status, http.StatusServiceUnavailable)
	})
}

func TestStockPlaceholderUpstream(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		a, b := origin(t, named("a")), origin(t, named("b"))
		s := serve(t, directive+" {http.request.header.X-Backend} {\n "+onceIf(directive)+"\n }")
		expect(t, "a", s.get(t, "/", "X-Backend", a).body, "a")
		expect(t, "b", s.get(t, "/", "X-Backend", b).body, "b")
		if got := s.get(t, "/").status; got < 500 {
			t.Errorf("without a backend: got status %d, want an error", got)
		}
	})
}

// A placeholder counts as one upstream, but the log names who was dialled.
func TestGuardNamesPlaceholderUpstream(t *testing.T) {
	leaveNothing(t)
	dead := deadAddr(t)
	s := serve(t, guarded+" {http.request.header.X-Backend} {\n failover off\n }")
	expect(t, "status", s.get(t, "/", "X-Backend", dead).status, http.StatusBadGateway)
	lines := s.faults(t)
	if len(lines) != 1 {
		t.Fatalf("faults: got %d, want 1", len(lines))
	}
	expect(t, "upstream", lines[0].text("upstream"), dead)
}

// --- DNS

// nameServer answers for app.test: with 127.0.0.1, and with these ports.
func nameServer(tb testing.TB, ports ...string) string {
	tb.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := replyTo(buf[:n], ports); err == nil {
				_, _ = pc.WriteTo(reply, from)
			}
		}
	})
	tb.Cleanup(func() {
		pc.Close()
		wg.Wait()
	})
	return pc.LocalAddr().String()
}

func replyTo(query []byte, ports []string) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true})
	_ = b.StartQuestions()
	_ = b.Question(q)
	_ = b.StartAnswers()
	name := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
	switch q.Type {
	case dnsmessage.TypeA:
		_ = b.AResource(name, dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case dnsmessage.TypeSRV:
		for i, port := range ports {
			n, _ := strconv.Atoi(port)
			_ = b.SRVResource(name, dnsmessage.SRVResource{Priority: uint16(i), Port: uint16(n), Target: dnsmessage.MustNewName("app.test.")})
		}
	}
	return b.Finish()
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func TestStockDynamicA(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		dns := nameServer(t)
		s := serve(t, fmt.Sprintf(`%s {
			dynamic a {
				name app%s.test
				port %s
				resolvers %s
				versions ipv4
			}
		}`, directive, portOf(dns), portOf(origin(t, named("app"))), dns))
		for range 2 {
			expect(t, "body", s.get(t, "/").body, "app")
		}
	})
}

func TestStockDynamicSRV(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		dns := nameServer(t, portOf(origin(t, named("first"))), portOf(origin(t, named("second"))))
		s := serve(t, dynamicSRV(directive, dns))
		expect(t, "body", s.get(t, "/").body, "first")
	})
}

func TestGuardFailsOverDynamicSRV(t *testing.T) {
	leaveNothing(t)
	dns := nameServer(t, portOf(deadAddr(t)), portOf(origin(t, named("second"))))
	s := serve(t, dynamicSRV(guarded, dns))
	for range 3 {
		expect(t, "body", s.get(t, "/").body, "second")
	}
}

// dynamicSRV asks for a name of its own: Caddy keeps answers by name, for all
// configurations of the process.
func dynamicSRV(directive, dns string) string {
	return fmt.Sprintf(`%s {
		dynamic srv _http._tcp.app%s.test {
			resolvers %s
		}
		lb_policy first
		transport http {
			resolvers %[3]s
		}
	}`, directive, portOf(dns), dns)
}
