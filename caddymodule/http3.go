// SPDX-License-Identifier: Apache-2.0

// Requests that quic-go does not put on the wire, or that no HTTP/3 origin may take.
// Its client waits for an answer all the same, until the stall.

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// fitForHTTP3 tells why a request cannot be sent over HTTP/3 (RFC 9114 section 4.3.1);
// nil if it can.
func fitForHTTP3(r *http.Request) error {
	if r.Method == http.MethodConnect && (r.Proto == "HTTP/1.0" || r.Proto == "HTTP/2.0") {
		return fmt.Errorf("http3: invalid request :protocol %q", r.Proto) // taken for extended CONNECT
	}
	if r.Method != http.MethodConnect {
		uri := r.URL.RequestURI()
		if !strings.HasPrefix(uri, "/") && !(uri == "*" && r.Method == http.MethodOptions) {
			return fmt.Errorf("http3: invalid request :path %.80q", uri)
		}
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	host, err := httpguts.PunycodeHostPort(host)
	if err != nil {
		return fmt.Errorf("http3: invalid Host header: %w", err)
	}
	if !httpguts.ValidHostHeader(host) {
		return errors.New("http3: invalid Host header")
	}
	return nil
}
