// SPDX-License-Identifier: Apache-2.0

// How Caddy's proxy reaches an origin: versions of HTTP, TLS, the PROXY
// protocol, Unix sockets. The guard dials in the proxy's place to see the
// connections, and must dial the same way.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// describe answers with how the request came.
func describe(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	sni := "-"
	if r.TLS != nil {
		sni = "tls:" + r.TLS.ServerName
	}
	fmt.Fprintf(w, "%s %s %s %d %v", r.Proto, sni, r.Method, n, err)
}

// originKind is a server and the options that reach it.
type originKind struct {
	name    string
	tls, h2 bool   // what the server speaks
	scheme  string // before the upstream's address
	options string // of transport http; TRUST stands for the server's certificate
	want    string // the version and the name that the origin sees
}

var originKinds = []originKind{
	{name: "h1", want: "HTTP/1.1 -"},
	{name: "h2c by version", h2: true, options: "versions h2c", want: "HTTP/2.0 -"},
	{name: "h2c by scheme", h2: true, scheme: "h2c://", want: "HTTP/2.0 -"},
	{name: "https trusted", tls: true, scheme: "https://", options: "TRUST", want: "HTTP/1.1 tls:"},
	{name: "https unverified", tls: true, scheme: "https://", options: "tls_insecure_skip_verify", want: "HTTP/1.1 tls:"},
	{name: "https h2", tls: true, h2: true, scheme: "https://", options: "TRUST", want: "HTTP/2.0 tls:"},
	{name: "https h2 not wanted", tls: true, h2: true, scheme: "https://", options: "TRUST\nversions 1.1", want: "HTTP/1.1 tls:"},
	{name: "https h2 server name", tls: true, h2: true, options: "TRUST\ntls_server_name example.com", want: "HTTP/2.0 tls:example.com"},
	{name: "https server name placeholder", tls: true, options: "TRUST\ntls_server_name {http.request.header.X-Name}", want: "HTTP/1.1 tls:example.com"},
	{name: "https h2 server name placeholder", tls: true, h2: true, options: "TRUST\ntls_server_name {http.request.header.X-Name}", want: "HTTP/2.0 tls:example.com"},
}

// serveKind starts the server, behind a listener of ours if wrap is not nil,
// and returns its address and the options of transport http that fit.
func (k originKind) start(tb testing.TB, wrap func(net.Listener) net.Listener) (addr, options string) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(describe))
	if wrap != nil {
		srv.Listener = wrap(srv.Listener)
	}
	if !k.tls {
		if k.h2 {
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
		}
		return startHTTP(tb, srv), k.options
	}
	srv.EnableHTTP2 = k.h2
	addr = startHTTPS(tb, srv)
	return addr, strings.ReplaceAll(k.options, "TRUST", trustPool(srv))
}

func (k originKind) directive(directive, addr, options string) string {
	return fmt.Sprintf("%s %s%s {\n transport http {\n %s\n }\n }", directive, k.scheme, addr, options)
}

func TestStockOriginKinds(t *testing.T) {
	for _, k := range originKinds {
		t.Run(k.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				addr, options := k.start(t, nil)
				s := serve(t, k.directive(directive, addr, options))
				for range 2 { // the second one may reuse the connection
					got := s.get(t, "/", "X-Name", "example.com")
					expect(t, "GET", got.body, k.want+" GET 0 <nil>")
				}
				put := do(t, newClient(t), newRequest(t, http.MethodPut, s.url("/"), bytes.NewReader(make([]byte, 300_000)), "X-Name", "example.com"))
				expect(t, "PUT", put.body, k.want+" PUT 300000 <nil>")
				if directive == guarded {
					expect(t, "faults", len(s.faults(t)), 0)
				}
			})
		})
	}
}

// Requests for one name must not go out on a connection made for another.
func TestStockServerNamesDoNotMix(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		k := originKind{tls: true, options: "tls_insecure_skip_verify\ntls_server_name {http.request.header.X-Name}"}
		addr, options := k.start(t, nil)
		s := serve(t, k.directive(directive, addr, options+"\nkeepalive off"))
		for _, name := range []string{"a.test", "b.test", "a.test"} {
			expect(t, "GET", s.get(t, "/", "X-Name", name).body, "HTTP/1.1 tls:"+name+" GET 0 <nil>")
		}
	})
}

// A socket needs HTTP/1.1 even where HTTP/2 would be chosen.
func TestStockSocketOverTLS(t *testing.T) {
	for how, name := range map[string]string{"static": "example.com", "placeholder": "{http.request.header.X-Name}"} {
		t.Run(how, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					c, rw, err := http.NewResponseController(w).Hijack()
					if err != nil {
						http.Error(w, err.Error(), http.StatusInternalServerError)
						return
					}
					defer c.Close()
					_, _ = io.WriteString(c, switching)
					_, _ = io.Copy(c, rw)
				}))
				srv.EnableHTTP2 = true
				k := originKind{scheme: "https://"}
				addr := startHTTPS(t, srv)
				s := serve(t, k.directive(directive, addr, trustPool(srv)+"\ntls_server_name "+name))
				c, r := openSocketWith(t, s, strings.Replace(upgrade, "\r\n\r\n", "\r\nX-Name: example.com\r\n\r\n", 1))
				_, _ = io.WriteString(c, "hello")
				expect(t, "echo", readFull(t, r, 5), "hello")
			})
		})
	}
}

func TestStockUntrustedOrigin(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		k := originKind{tls: true, scheme: "https://"}
		addr, options := k.start(t, nil)
		s := serve(t, k.directive(directive, addr, options))
		expect(t, "status", s.get(t, "/").status, http.StatusBadGateway)
	})
}

func TestStockUnixSocket(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(http.HandlerFunc(describe))
		_ = srv.Listener.Close()
		srv.Listener = ln
		startHTTP(t, srv)
		s := serve(t, fmt.Sprintf("%s unix/%s", directive, path))
		expect(t, "GET", s.get(t, "/").body, "HTTP/1.1 - GET 0 <nil>")
	})
}

// A Unix socket that nobody listens on is an origin that refuses.
func TestGuardUnixSocketFailsOver(t *testing.T) {
	leaveNothing(t)
	path := filepath.Join(t.TempDir(), "nobody")
	s := serve(t, fmt.Sprintf("%s unix/%s %s {\n lb_policy first\n }", guarded, path, origin(t, named("good"))))
	expect(t, "body", s.get(t, "/").body, "good")
	lines := s.faults(t)
	if len(lines) != 1 {
		t.Fatalf("faults: got %d, want 1", len(lines))
	}
	expect(t, "upstream", lines[0].text("upstream"), "unix/"+path)
}

// --- the PROXY protocol

// proxyListener takes the PROXY header from each connection and lets it pass
// for one from the address therein.
type proxyListener struct{ net.Listener }

func (l proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: c, r: bufio.NewReader(c)}, nil
}

type proxiedConn struct {
	net.Conn
	r      *bufio.Reader
	parsed bool
	source string
}

// Read reads behind the header.
func (c *proxiedConn) Read(p []byte) (int, error) {
	c.parse()
	return c.r.Read(p)
}

// RemoteAddr is what the header says. net/http asks for it before it reads.
func (c *proxiedConn) RemoteAddr() net.Addr {
	c.parse()
	return namedAddr(c.source)
}

type namedAddr string

func (namedAddr) Network() string  { return "tcp" }
func (a namedAddr) String() string { return string(a) }

func (c *proxiedConn) parse() {
	if !c.parsed {
		c.parsed = true
		c.source = readProxyHeader(c.r)
	}
}

// readProxyHeader reads version 1 or 2 with a TCP over IPv4 address.
func readProxyHeader(r *bufio.Reader) string {
	start, _ := r.Peek(6)
	if string(start) == "PROXY " {
		line, _ := r.ReadString('\n')
		if f := strings.Fields(line); len(f) == 6 && f[1] == "TCP4" {
			return "v1 " + net.JoinHostPort(f[2], f[4])
		}
		return "bad v1 header " + line
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" {
		return fmt.Sprintf("no header: %q", head)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(r, body); err != nil || head[12] != 0x21 || head[13] != 0x11 || len(body) < 12 {
		return fmt.Sprintf("bad v2 header: %q %q", head, body)
	}
	ip, _ := netip.AddrFromSlice(body[:4])
	return "v2 " + netip.AddrPortFrom(ip, binary.BigEndian.Uint16(body[8:])).String()
}

func TestStockProxyProtocol(t *testing.T) {
	kinds := []originKind{
		{name: "http", want: "HTTP/1.1"},
		{name: "h2c", h2: true, options: "versions h2c", want: "HTTP/2.0"},
		{name: "https", tls: true, scheme: "https://", options: "TRUST\ntls_server_name example.com", want: "HTTP/1.1"},
		{name: "https h2", tls: true, h2: true, scheme: "https://", options: "TRUST\ntls_server_name example.com", want: "HTTP/2.0"},
	}
	for _, k := range kinds {
		for _, version := range []string{"v1", "v2"} {
			t.Run(k.name+" "+version, func(t *testing.T) {
				onBoth(t, func(t *testing.T, directive string) { checkProxyProtocol(t, directive, version, k) })
			})
		}
	}
}

func checkProxyProtocol(t *testing.T, directive, version string, k originKind) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Proto, r.RemoteAddr)
	}))
	srv.Listener = proxyListener{srv.Listener}
	var addr string
	if k.tls {
		srv.EnableHTTP2 = k.h2
		addr = startHTTPS(t, srv)
	} else {
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(!k.h2)
		srv.Config.Protocols.SetUnencryptedHTTP2(k.h2)
		addr = startHTTP(t, srv)
	}
	options := strings.ReplaceAll(k.options, "TRUST", trustPoolIf(k.tls, srv))
	s := serveConfig(t, "", "trusted_proxies static 127.0.0.1", k.directive(directive, addr, options+"\nproxy_protocol "+version))
	for _, client := range []string{"203.0.113.1", "203.0.113.2", "203.0.113.1"} { // never on another's connection
		got := s.get(t, "/", "X-Forwarded-For", client)
		expect(t, "what the origin sees", got.body, fmt.Sprintf("%s %s %s:0", k.want, version, client))
	}
}

func trustPoolIf(tls bool, srv *httptest.Server) string {
	if !tls {
		return ""
	}
	return trustPool(srv)
}

// A certificate that has run out is another origin's chance, on the path with
// the PROXY protocol too, where the guard makes the handshake.
func TestGuardFailsOverFromBadCertificate(t *testing.T) {
	for how, options := range map[string]string{
		"net/http dials":          "",
		"server name":             "tls_server_name {http.request.header.X-Name}",
		"with the PROXY protocol": "proxy_protocol v2\ntls_server_name 127.0.0.1",
	} {
		t.Run(how, func(t *testing.T) {
			leaveNothing(t)
			bad := startOrigin(t, faultinject.Config{Protocol: faultinject.H1TLS, Fault: faultinject.TLSExpired})
			srv := httptest.NewUnstartedServer(named("good"))
			if how == "with the PROXY protocol" {
				srv.Listener = proxyListener{srv.Listener}
			}
			good := startHTTPS(t, srv)
			s := serve(t, fmt.Sprintf("%s https://%s https://%s {\n lb_policy first\n transport http {\n %s\n %s\n}\n}",
				guarded, bad.Addr(), good, trustPool(srv), options))
			expect(t, "body", s.get(t, "/", "X-Name", "example.com").body, "good")
			lines := s.faults(t)
			if len(lines) != 1 || lines[0].text("phase") != "tls" {
				t.Errorf("faults: got %v, want one in the phase tls", lines)
			}
		})
	}
}

// The handshake's own timeout holds on that path.
func TestStockHandshakeTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		silent := startOrigin(t, faultinject.Config{Protocol: faultinject.H1TLS, Fault: faultinject.TLSStall})
		s := serve(t, fmt.Sprintf(`%s https://%s {
			lb_retries 1
			lb_try_interval 1ms
			transport http {
				tls_timeout 60ms
				tls_server_name {http.request.header.X-Name}
			}
		}`, directive, silent.Addr()))
		if got := s.get(t, "/", "X-Name", "example.com").status; got != http.StatusBadGateway && got != http.StatusGatewayTimeout {
			t.Errorf("status: got %d, want 502 or 504", got)
		}
	})
}
