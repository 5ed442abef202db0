// SPDX-License-Identifier: Apache-2.0

// What the client of a proxy does, which no origin may be blamed for.

package health_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// clientGone is a fault of the client.
func clientGone(phases ...health.Phase) want {
	return want{cause: health.ClientGone, phases: phases, side: health.SideClient, safety: health.Never}
}

// ownDeadline is a deadline of this side's own.
func ownDeadline(phase health.Phase) want {
	return want{cause: health.Timeout, phases: at(phase), side: health.SideProxy, safety: health.Never}
}

var clientCases = []faultCase{
	{"client_abort", "HTTP/1 upload, close", breakUpload(serveH1, breakH1(false)), clientGone(health.PhaseWrite)},
	{"client_abort", "HTTP/1 upload, reset", breakUpload(serveH1, breakH1(true)), clientGone(health.PhaseWrite)},
	{"client_abort", "HTTP/2 upload, CANCEL", breakUpload(serveH2, nil), clientGone(health.PhaseWrite)},
	{"client_abort", "HTTP/3 upload, H3_REQUEST_CANCELLED", breakUpload(serveH3, nil), clientGone(health.PhaseWrite)},
	{"client_abort", "gone while waiting", leave(faultinject.StallBeforeHeaders), clientGone(health.PhaseWait)},
	{"client_abort", "gone in the body", leave(faultinject.StallInBody), clientGone(health.PhaseBody, health.PhaseWait, health.PhaseHeaders)},
	{"own_deadline", "while waiting", outOfTime(faultinject.StallBeforeHeaders), ownDeadline(health.PhaseWait)},
	{"own_deadline", "in the body", outOfTime(faultinject.StallInBody), ownDeadline(health.PhaseBody)},
	{"own_deadline", "within a header", outOfTime(faultinject.StallInHeaders), ownDeadline(health.PhaseHeaders)},
}

func TestClassifyClient(t *testing.T) { runCases(t, clientCases) }

// leave cancels a request that the origin has got.
func leave(f faultinject.Fault) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		o := startOrigin(t, faultinject.Config{Fault: f})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for o.Requests() == 0 && ctx.Err() == nil {
				runtime.Gosched()
			}
			cancel()
		}()
		req := send{path: someBytes}.request(t, o.URL()).WithContext(ctx)
		return newClient(t, nil).do(t, req).fault(t)
	}
}

// outOfTime gives the request a deadline.
func outOfTime(f faultinject.Fault) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		o := startOrigin(t, faultinject.Config{Fault: f})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		req := send{path: someBytes}.request(t, o.URL()).WithContext(ctx)
		return newClient(t, nil).do(t, req).fault(t)
	}
}

// front is a server of a proxy: it starts one, and returns its address and a
// client for it.
type front func(t *testing.T, h http.Handler) (url string, rt http.RoundTripper)

// breakUpload sends a part of a body through a proxy to a faultless origin.
// Without a function of its own the client cancels its request.
func breakUpload(serve front, abort func(t *testing.T, url string)) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		o := startOrigin(t, faultinject.Config{})
		c := newClient(t, nil)
		attempts, reading, left := make(chan *attempt, 1), make(chan struct{}), make(chan struct{})
		defer close(left)
		url, rt := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			out := r.Clone(t.Context()) // not r.Context: the body's error alone must tell
			out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", o.Addr()
			out.Body = &firstRead{ReadCloser: r.Body, done: reading}
			attempts <- c.do(t, out)
			<-left // returning would answer
		}))
		if abort != nil {
			abort(t, url)
		} else {
			cancelUpload(t, rt, url, reading)
		}
		return (<-attempts).fault(t)
	}
}

// firstRead tells when a part of a body has been read.
type firstRead struct {
	io.ReadCloser
	done chan struct{}
	once sync.Once
}

func (f *firstRead) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	f.once.Do(func() { close(f.done) })
	return n, err
}

// breakH1 sends a header and a part of the body, and breaks off.
func breakH1(byReset bool) func(t *testing.T, url string) {
	return func(t *testing.T, url string) {
		t.Helper()
		conn, err := net.Dial("tcp", url[len("http://"):])
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart"); err != nil {
			t.Fatal(err)
		}
		if byReset {
			reset(conn.(*net.TCPConn))
		}
	}
}

// cancelUpload cancels a request whose body is under way.
func cancelUpload(t *testing.T, rt http.RoundTripper, url string, reading <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	body, more := io.Pipe()
	go func() {
		_, _ = more.Write([]byte("part"))
		<-reading
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rt.RoundTrip(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("sending: got %v, want %v", err, context.Canceled)
	}
	_ = more.Close()
}

func serveH1(t *testing.T, h http.Handler) (string, http.RoundTripper) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL, nil
}

func serveH2(t *testing.T, h http.Handler) (string, http.RoundTripper) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, s.Client().Transport
}

func serveH3(t *testing.T, h http.Handler) (string, http.RoundTripper) {
	cert, roots := newCertificate(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(pc)
	}()
	rt := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(func() {
		_ = rt.Close()
		_ = s.Close()
		<-served
		_ = pc.Close()
	})
	return "https://" + pc.LocalAddr().String(), rt
}
