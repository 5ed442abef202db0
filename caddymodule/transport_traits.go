// SPDX-License-Identifier: Apache-2.0

// What Caddy's proxy asks of its transport, passed on to the wrapped one.

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TLSEnabled tells whether the wrapped transport uses TLS.
func (t *Transport) TLSEnabled() bool {
	inner, ok := t.inner.(reverseproxy.TLSTransport)
	return ok && inner.TLSEnabled()
}

// EnableTLS turns on TLS in the wrapped transport, while a Caddyfile is adapted.
func (t *Transport) EnableTLS(base *reverseproxy.TLSConfig) error {
	return t.adjust(func(inner http.RoundTripper) error {
		tt, ok := inner.(reverseproxy.TLSTransport)
		if !ok {
			return fmt.Errorf("upstreams are configured for HTTPS but the wrapped transport %T does not support TLS", inner)
		}
		return tt.EnableTLS(base)
	})
}

// EnableH2C turns on HTTP/2 without TLS in the wrapped transport, while a
// Caddyfile is adapted.
func (t *Transport) EnableH2C() error {
	return t.adjust(func(inner http.RoundTripper) error {
		ht, ok := inner.(reverseproxy.H2CTransport)
		if !ok {
			return fmt.Errorf("upstreams are configured for h2c but the wrapped transport %T does not support it", inner)
		}
		return ht.EnableH2C()
	})
}

// adjust changes the wrapped transport and writes its configuration anew.
func (t *Transport) adjust(change func(http.RoundTripper) error) error {
	name := "http"
	if t.inner == nil {
		t.inner = new(reverseproxy.HTTPTransport)
	} else if mod, ok := t.inner.(caddy.Module); ok {
		name = mod.CaddyModule().ID.Name()
	}
	if err := change(t.inner); err != nil {
		return err
	}
	var warnings []caddyconfig.Warning
	t.TransportRaw = caddyconfig.JSONModuleObject(t.inner, "protocol", name, &warnings)
	if len(warnings) > 0 {
		return errors.New(warnings[0].Message)
	}
	return nil
}

// ProxyProtocolEnabled tells whether the wrapped transport sends a PROXY header.
func (t *Transport) ProxyProtocolEnabled() bool {
	inner, ok := t.inner.(reverseproxy.ProxyProtocolTransport)
	return ok && inner.ProxyProtocolEnabled()
}

// OverrideHealthCheckScheme lets the wrapped transport choose https for active
// health checks.
func (t *Transport) OverrideHealthCheckScheme(base *url.URL, port string) {
	if inner, ok := t.inner.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		inner.OverrideHealthCheckScheme(base, port)
	}
}

// DefaultBufferSizes returns what the wrapped transport wants to be buffered.
func (t *Transport) DefaultBufferSizes() (request, response int64) {
	if inner, ok := t.inner.(reverseproxy.BufferedTransport); ok {
		return inner.DefaultBufferSizes()
	}
	return 0, 0
}

// RequiresContentLength tells whether the wrapped transport needs to know the
// length of a request's body.
func (t *Transport) RequiresContentLength() bool {
	inner, ok := t.inner.(reverseproxy.ContentLengthRequiredTransport)
	return ok && inner.RequiresContentLength()
}

// RequestHeaderOps returns the header operations of the wrapped transport.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	if inner, ok := t.inner.(reverseproxy.RequestHeaderOpsTransport); ok {
		return inner.RequestHeaderOps()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Module          = (*Transport)(nil)
	_ caddy.Provisioner     = (*Transport)(nil)
	_ caddy.Validator       = (*Transport)(nil)
	_ caddy.CleanerUpper    = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ http.RoundTripper     = (*Transport)(nil)

	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.BufferedTransport                   = (*Transport)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
