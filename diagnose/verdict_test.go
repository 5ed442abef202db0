// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// rfc9209 is the registry of section 2.3, whole.
var rfc9209 = []string{
	"dns_timeout", "dns_error", "destination_not_found", "destination_unavailable",
	"destination_ip_prohibited", "destination_ip_unroutable", "connection_refused",
	"connection_terminated", "connection_timeout", "connection_read_timeout",
	"connection_write_timeout", "connection_limit_reached", "tls_protocol_error",
	"tls_certificate_error", "tls_alert_received", "http_request_error", "http_request_denied",
	"http_response_incomplete", "http_response_header_section_size", "http_response_header_size",
	"http_response_body_size", "http_response_trailer_section_size", "http_response_trailer_size",
	"http_response_transfer_coding", "http_response_content_coding", "http_response_timeout",
	"http_upgrade_failed", "http_protocol_error", "proxy_internal_response",
	"proxy_internal_error", "proxy_configuration_error", "proxy_loop_detected",
}

func TestJudgeTable(t *testing.T) {
	dnsTimeout := &net.DNSError{Err: "i/o timeout", IsTimeout: true}
	for _, tc := range []struct {
		cause  health.Cause
		phase  health.Phase
		err    error
		status int
		want   string
	}{
		{health.DNS, health.PhaseDial, &net.DNSError{IsNotFound: true}, 502, "dns_error"},
		{health.DNS, health.PhaseDial, &net.OpError{Op: "dial", Err: dnsTimeout}, 504, "dns_timeout"},
		{health.Refused, health.PhaseDial, nil, 502, "connection_refused"},
		{health.Unreachable, health.PhaseDial, nil, 502, "destination_ip_unroutable"},
		{health.Timeout, health.PhaseDial, nil, 504, "connection_timeout"},
		{health.Timeout, health.PhaseTLS, nil, 504, "connection_timeout"},
		{health.Timeout, health.PhaseWrite, nil, 504, "connection_write_timeout"},
		{health.Timeout, health.PhaseStale, nil, 504, "http_response_timeout"},
		{health.Timeout, health.PhaseWait, nil, 504, "http_response_timeout"},
		{health.Timeout, health.PhaseHeaders, nil, 504, "connection_read_timeout"},
		{health.Timeout, health.PhaseBody, nil, 504, "connection_read_timeout"},
		{health.Reset, health.PhaseDial, nil, 502, "connection_terminated"},
		{health.Reset, health.PhaseTLS, nil, 502, "connection_terminated"},
		{health.Reset, health.PhaseStale, nil, 502, "connection_terminated"},
		{health.Reset, health.PhaseWrite, nil, 502, "connection_terminated"},
		{health.Reset, health.PhaseWait, nil, 502, "connection_terminated"},
		{health.Reset, health.PhaseHeaders, nil, 502, "http_response_incomplete"},
		{health.Reset, health.PhaseBody, nil, 502, "http_response_incomplete"},
		{health.Closed, health.PhaseWait, nil, 502, "connection_terminated"},
		{health.Closed, health.PhaseBody, nil, 502, "http_response_incomplete"},
		{health.GoAway, health.PhaseWait, nil, 502, "connection_terminated"},
		{health.RefusedStream, health.PhaseWait, nil, 502, "destination_unavailable"},
		{health.TLSExpired, health.PhaseTLS, nil, 502, "tls_certificate_error"},
		{health.TLSUntrusted, health.PhaseTLS, nil, 502, "tls_certificate_error"},
		{health.TLSName, health.PhaseTLS, nil, 502, "tls_certificate_error"},
		{health.TLSVersion, health.PhaseTLS, nil, 502, "tls_protocol_error"},
		{health.TLSVersion, health.PhaseTLS, alertError(), 502, "tls_alert_received"},
		{health.TLSHandshake, health.PhaseTLS, nil, 502, "tls_protocol_error"},
		{health.TLSHandshake, health.PhaseWait, alertError(), 502, "tls_alert_received"},
		{health.Protocol, health.PhaseHeaders, nil, 502, "http_protocol_error"},
		{health.Overloaded, health.PhaseHeaders, nil, 503, "destination_unavailable"},
		{health.NoUpstream, "", nil, 503, "destination_unavailable"},
		{health.LocalPorts, health.PhaseDial, nil, 503, "connection_limit_reached"},
		{health.LocalFiles, health.PhaseDial, nil, 503, "proxy_internal_error"},
		{health.LocalMemory, health.PhaseDial, nil, 503, "proxy_internal_error"},
		{health.ClientGone, health.PhaseWait, nil, 502, ""},
		{health.Unknown, health.PhaseDial, nil, 502, "destination_unavailable"},
		{health.Unknown, health.PhaseWait, nil, 502, "connection_terminated"},
		{health.Unknown, health.PhaseBody, nil, 502, "http_response_incomplete"},
		{"", "", nil, 502, "destination_unavailable"},
	} {
		v := Judge(health.Fault{Cause: tc.cause, Phase: tc.phase, Err: tc.err})
		if v.Status != tc.status || v.ProxyStatusError != tc.want {
			t.Errorf("%s/%s: got %d %q, want %d %q", tc.cause, tc.phase, v.Status, v.ProxyStatusError, tc.status, tc.want)
		}
	}
}

func TestJudgeStatusKeepsGatewayStatus(t *testing.T) {
	for _, tc := range []struct {
		cause         health.Cause
		answered      int
		want, wantRcv int
	}{
		{health.Status, 502, 502, 502},
		{health.Status, 503, 503, 503},
		{health.Status, 504, 504, 504},
		{health.Status, 599, 502, 599},
		{health.Status, 1000, 502, 0},
		{health.Overloaded, 429, 503, 429},
		{health.Reset, 0, 502, 0},
	} {
		v := Judge(health.Fault{Cause: tc.cause, Phase: health.PhaseHeaders, StatusCode: tc.answered})
		if v.Status != tc.want || v.ReceivedStatus != tc.wantRcv {
			t.Errorf("%s %d: got %d, received %d, want %d, received %d", tc.cause, tc.answered, v.Status, v.ReceivedStatus, tc.want, tc.wantRcv)
		}
	}
}

func TestJudgeRetryAfter(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault health.Fault
		want  time.Duration
	}{
		{"origin's wish", health.Fault{Cause: health.Overloaded, RetryAfter: 17 * time.Second}, 17 * time.Second},
		{"too long a wish", health.Fault{Cause: health.Overloaded, RetryAfter: time.Hour}, time.Minute},
		{"no wish", health.Fault{Cause: health.Overloaded}, 5 * time.Second},
		{"nonsense", health.Fault{Cause: health.Overloaded, RetryAfter: -time.Hour}, 5 * time.Second},
		{"whole seconds", health.Fault{Cause: health.Overloaded, RetryAfter: 1200 * time.Millisecond}, 2 * time.Second},
		{"never rounded to 0", health.Fault{Cause: health.Overloaded, RetryAfter: 1}, time.Second},
		{"just under the limit", health.Fault{Cause: health.Overloaded, RetryAfter: time.Minute - 1}, time.Minute},
		{"none left", health.Fault{Cause: health.NoUpstream}, 5 * time.Second},
		{"no ports", health.Fault{Cause: health.LocalPorts}, 5 * time.Second},
		{"refused", health.Fault{Cause: health.Refused, Phase: health.PhaseDial}, 0},
		{"timeout", health.Fault{Cause: health.Timeout, Phase: health.PhaseWait}, 0},
		{"502 with a wish", health.Fault{Cause: health.Status, StatusCode: 502, RetryAfter: time.Second}, 0},
	} {
		if got := Judge(tc.fault).RetryAfter; got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestJudgeSide(t *testing.T) {
	for _, tc := range []struct {
		fault health.Fault
		want  health.Side
	}{
		{health.Fault{Cause: health.Timeout, Side: health.SideNetwork}, health.SideNetwork},
		{health.Fault{Cause: health.Timeout}, health.SideUpstream},
		{health.Fault{Cause: health.Unreachable}, health.SideNetwork},
		{health.Fault{Cause: health.LocalFiles}, health.SideProxy},
		{health.Fault{Cause: health.ClientGone}, health.SideClient},
	} {
		if got := Judge(tc.fault).Side; got != tc.want {
			t.Errorf("%s, side %q: got %q, want %q", tc.fault.Cause, tc.fault.Side, got, tc.want)
		}
	}
}

// TestJudgeEveryFault holds what must be true of any verdict.
func TestJudgeEveryFault(t *testing.T) {
	for _, f := range everyFault(t) {
		v := Judge(f)
		name := string(f.Cause) + "/" + string(f.Phase)
		if v.Status < 502 || v.Status > 504 {
			t.Errorf("%s: got status %d, want 502, 503 or 504", name, v.Status)
		}
		if (v.RetryAfter > 0) != (v.Status == 503) {
			t.Errorf("%s: got Retry-After %v with %d", name, v.RetryAfter, v.Status)
		}
		if v.ProxyStatusError != "" && !slices.Contains(rfc9209, v.ProxyStatusError) {
			t.Errorf("%s: %q is no error type of RFC 9209", name, v.ProxyStatusError)
		}
		if v.Title == "" || v.Detail == "" || strings.HasSuffix(v.Title, ".") || !strings.HasSuffix(v.Detail, ".") {
			t.Errorf("%s: got title %q and detail %q", name, v.Title, v.Detail)
		}
		if v.Side == "" {
			t.Errorf("%s: got no side", name)
		}
	}
}

func TestNothingShownToClientsComesFromTheError(t *testing.T) {
	secret := errors.New("dial tcp 10.9.8.7:8080: secret")
	for _, f := range everyFault(t) {
		f.Err = secret
		v := Judge(f)
		shown := ProxyStatus("", v)
		for _, format := range []Format{Plain, Problem, HTML} {
			_, body := Render(format, v, "")
			shown += string(body)
		}
		if strings.Contains(shown, "10.9.8.7") || strings.Contains(shown, "secret") {
			t.Fatalf("%s/%s: the client is told %s", f.Cause, f.Phase, shown)
		}
	}
}
