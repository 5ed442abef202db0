// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 a client that speaks nothing but HTTP/2 is wanted

// Clients that come over TLS with HTTP/1.1, HTTP/2 or HTTP/3, and sockets over
// extended CONNECT (RFC 8441, RFC 9220).

package caddymodule_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// secureServer is a running Caddy with one site on https.
type secureServer struct {
	*server
	config []byte
}

// serveSecure runs a Caddy with one site on https, in all versions of HTTP.
func serveSecure(tb testing.TB, directives string) *secureServer {
	tb.Helper()
	addr := freeAddr(tb)
	return serveSecureAs(tb, addr, addr, directives)
}

// serveSecureAnyHost is serveSecure for every host.
func serveSecureAnyHost(tb testing.TB, directives string) *secureServer {
	tb.Helper()
	addr := freeAddr(tb)
	_, port, _ := net.SplitHostPort(addr)
	return serveSecureAs(tb, addr, ":"+port, directives)
}

func serveSecureAs(tb testing.TB, addr, site, directives string) *secureServer {
	tb.Helper()
	dir := tb.TempDir()
	s := &secureServer{server: &server{addr: addr, log: filepath.Join(dir, "caddy.log")}}
	cert, key := certificateFiles(tb, dir)
	s.config = adapt(tb, fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 1s
	auto_https disable_redirects
	log default {
		output file %s
		format json
		level DEBUG
	}
}
https://%s {
	tls %s %s
	%s
}
`, s.log, site, cert, key, directives))
	s.load(tb, s.config)
	return s
}

// certificateFiles writes httptest's certificate, which is for 127.0.0.1.
func certificateFiles(tb testing.TB, dir string) (cert, key string) {
	tb.Helper()
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	pair := srv.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return cert, key
}

func (s *secureServer) url(path string) string { return "https://" + s.addr + path }

// secureClient is a client with one version of HTTP.
type secureClient struct {
	name string
	make func(tb testing.TB) http.RoundTripper
}

// anyCertificate verifies nothing: who is at the other end is not the question.
func anyCertificate() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

var secureClients = []secureClient{
	{"HTTP/1.1", func(tb testing.TB) http.RoundTripper {
		tr := &http.Transport{TLSClientConfig: anyCertificate(), Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(true)
		tb.Cleanup(tr.CloseIdleConnections)
		return tr
	}},
	{"HTTP/2.0", func(tb testing.TB) http.RoundTripper {
		// A connection with a stream that was just cancelled is not idle yet,
		// so they are closed by hand.
		return &http2.Transport{TLSClientConfig: anyCertificate(), DialTLSContext: func(ctx context.Context, network, addr string, cfg *tls.Config) (net.Conn, error) {
			c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, network, addr)
			if err == nil {
				tb.Cleanup(func() { _ = c.Close() })
			}
			return c, err
		}}
	}},
	{"HTTP/3.0", func(tb testing.TB) http.RoundTripper {
		tr := &http3.Transport{TLSClientConfig: anyCertificate()}
		tb.Cleanup(func() { _ = tr.Close() })
		return tr
	}},
}

// start makes a client of s. Its connections are closed before s is stopped.
func (c secureClient) start(tb testing.TB, s *secureServer) *http.Client {
	tb.Helper()
	if c.name == "HTTP/3.0" {
		s.settle(tb)
	}
	return &http.Client{Transport: c.make(tb), Timeout: 2 * patience}
}

// settle makes what Caddy's start has written visible to the goroutines that
// serve HTTP/3, as far as the race detector can see: Caddy may listen before
// its TLS app has started, in an order left to chance, and UDP, unlike TCP,
// orders nothing for the detector. A reload takes the lock that both look at.
func (s *secureServer) settle(tb testing.TB) {
	tb.Helper()
	if err := caddy.Load(s.config, true); err != nil {
		tb.Fatal(err)
	}
}

// withEachVersion runs test with each directive and each version of HTTP.
func withEachVersion(t *testing.T, test func(t *testing.T, directive string, c secureClient)) {
	for _, c := range secureClients {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) { test(t, directive, c) })
		})
	}
}

func TestStockClientVersions(t *testing.T) {
	upload := faultinject.Bytes(1 << 20)
	withEachVersion(t, func(t *testing.T, directive string, c secureClient) {
		s := serveSecure(t, directive+" "+origin(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Proto", r.Header.Get("X-Forwarded-Proto"))
			_, _ = w.Write(body)
		}))
		client := c.start(t, s)
		got := do(t, client, newRequest(t, http.MethodPost, s.url("/"), bytes.NewReader(upload)))
		expect(t, "status", got.status, http.StatusOK)
		expect(t, "X-Forwarded-Proto", got.header.Get("X-Proto"), "https")
		if got.body != string(upload) {
			t.Errorf("echo: got %d bytes that differ from the %d sent", len(got.body), len(upload))
		}
		expect(t, "GET", do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil)).body, "")
	})
}

// A client that leaves is 499 in the access log, whatever it speaks, and the
// origin learns of it.
func TestStockClientLeaves(t *testing.T) {
	withEachVersion(t, func(t *testing.T, directive string, c secureClient) {
		arrived, left := make(chan bool, 1), make(chan bool, 1)
		s := serveSecure(t, "log\n"+directive+" "+origin(t, func(_ http.ResponseWriter, r *http.Request) {
			arrived <- true
			<-r.Context().Done()
			left <- true
		}))
		req := newRequest(t, http.MethodGet, s.url("/"), nil)
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		go func() {
			<-arrived
			cancel()
		}()
		res, err := c.start(t, s).Do(req.WithContext(ctx))
		// On a slow machine Caddy's 499 may be faster than the client is in leaving.
		if !errors.Is(err, context.Canceled) && (err != nil || res.StatusCode != 499) {
			t.Fatalf("got %v, %v, want %v", res, err, context.Canceled)
		}
		receive(t, "the origin's request ends", left)
		expect(t, "status in the access log", s.accessStatus(t, 1), 499)
	})
}

// When all origins fail there is one complete error, on every version, also to
// a client that is still uploading.
func TestGuardErrorOnEachVersion(t *testing.T) {
	upload := faultinject.Bytes(4 << 20)
	for _, c := range secureClients {
		t.Run(c.name, func(t *testing.T) {
			leaveNothing(t)
			s := serveSecure(t, guarded+" "+deadAddr(t)+` {
				failover {
					within 50ms
				}
			}`)
			client := c.start(t, s)
			for _, body := range [][]byte{nil, upload} {
				got := do(t, client, newRequest(t, http.MethodPost, s.url("/"), bytes.NewReader(body), "Accept", "application/problem+json"))
				expect(t, "status", got.status, http.StatusBadGateway)
				expect(t, "Content-Type", got.header.Get("Content-Type"), "application/problem+json")
				if !strings.Contains(got.header.Get("Proxy-Status"), "error=connection_refused") {
					t.Errorf("Proxy-Status: got %q, want error=connection_refused", got.header.Get("Proxy-Status"))
				}
			}
		})
	}
}

// extendedConnect opens a socket in a stream and sends words through it.
func extendedConnect(t *testing.T, s *secureServer, tr http.RoundTripper, prepare func(*http.Request)) {
	t.Helper()
	body, words := io.Pipe()
	req := newRequest(t, http.MethodConnect, s.url("/ws"), body, "Sec-WebSocket-Version", "13")
	prepare(req)
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	expect(t, "status", res.StatusCode, http.StatusOK)
	for i := range 5 {
		word := fmt.Sprintf("word %d", i)
		_, _ = io.WriteString(words, word)
		expect(t, "echo", readFull(t, res.Body, len(word)), word)
	}
	_ = words.Close()
	expect(t, "after the end", readAll(t, res.Body), "")
}

func TestStockSocketOverHTTP3(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serveSecure(t, directive+" "+socketOrigin(t, switching, echo))
		extendedConnect(t, s, secureClients[2].start(t, s).Transport, func(r *http.Request) { r.Proto = "websocket" })
	})
}

// Go's server offers extended CONNECT over HTTP/2 only if the environment says
// so when the process starts, so this test runs itself in a process of its own.
func TestStockSocketOverHTTP2(t *testing.T) {
	const offer = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), offer) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStockSocketOverHTTP2$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+offer)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), "--- PASS") != 3 {
			t.Errorf("in a process with GODEBUG=%s: %v\n%s", offer, err, out)
		}
		return
	}
	onBoth(t, func(t *testing.T, directive string) {
		s := serveSecure(t, directive+" "+socketOrigin(t, switching, echo))
		extendedConnect(t, s, secureClients[1].start(t, s).Transport, func(r *http.Request) { r.Header[":protocol"] = []string{"websocket"} })
	})
}
