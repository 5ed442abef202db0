// SPDX-License-Identifier: Apache-2.0

// Dialling: connections that are watched, errors that keep their cause.

package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/health"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// watch makes ht dial connections that are watched. It must be called before
// the first request.
func watch(ht *reverseproxy.HTTPTransport) {
	dial := watchedDial(ht.Transport.DialContext)
	ht.Transport.DialContext = dial
	if ht.Transport.DialTLSContext != nil {
		ht.Transport.DialTLSContext = dialTLS(ht, dial)
	}
}

func watchedDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var rec dialRecorder
		conn, err := dial(httptrace.WithClientTrace(ctx, rec.trace()), network, addr)
		if err != nil {
			return nil, rec.explain(err)
		}
		return health.WatchConn(conn), nil
	}
}

// dialRecorder keeps what the resolver and the kernel said: Caddy's DialError
// hides it. Both families may be dialled at the same time.
type dialRecorder struct {
	mu    sync.Mutex
	cause error
}

func (d *dialRecorder) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { d.note(info.Err) },
		ConnectDone: func(_, _ string, err error) { d.note(err) },
	}
}

func (d *dialRecorder) note(err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cause = err
}

func (d *dialRecorder) explain(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause == nil {
		return err
	}
	return &dialFailure{err: err, cause: d.cause}
}

// dialFailure is a failed dial with its cause. It still is Caddy's DialError.
type dialFailure struct{ err, cause error }

func (d *dialFailure) Error() string   { return d.err.Error() }
func (d *dialFailure) Unwrap() []error { return []error{d.err, d.cause} }

// tlsH1OnlyVar is set by Caddy's proxy for requests that need HTTP/1.1, which
// upgrades do (caddyserver/caddy#7292).
const tlsH1OnlyVar = "reverse_proxy.tls_h1_only"

// dialTLS does what HTTPTransport's own DialTLSContext does, over a watched
// connection. That one cannot be wrapped: net/http finds HTTP/2 only on a
// *tls.Conn, and the connection to watch lies beneath it.
func dialTLS(ht *reverseproxy.HTTPTransport, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := ht.Transport.TLSClientConfig.Clone()
		if strings.Contains(ht.TLS.ServerName, "{") {
			if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
				cfg.ServerName = repl.ReplaceAll(cfg.ServerName, "")
			}
		}
		if caddyhttp.GetVar(ctx, tlsH1OnlyVar) == true {
			cfg.NextProtos = nil
		}
		if timeout := ht.Transport.TLSHandshakeTimeout; timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no TLS handshake within %s", timeout))
			defer cancel()
		}
		tlsConn := tls.Client(conn, cfg)
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			_ = tlsConn.Close()
			return nil, err
		}
		return tlsConn, nil
	}
}

// directDial is the transport's own way to a TCP connection, for probes; it fails
// where a forward proxy is in between, which says nothing of the upstream.
func directDial(ht *reverseproxy.HTTPTransport) dialFunc {
	rt := ht.Transport
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if rt.Proxy != nil {
			u := &url.URL{Scheme: "http", Host: addr}
			if proxy, err := rt.Proxy(&http.Request{URL: u}); err != nil || proxy != nil {
				return nil, errors.New("a proxy is in between")
			}
		}
		return rt.DialContext(ctx, network, addr)
	}
}
