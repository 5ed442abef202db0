// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/resetguard/caddy-resetguard/health"
)

// constantsOf reads the constants of a type out of package health, so that a
// new cause without words fails here.
func constantsOf(t *testing.T, typeName string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../health/fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		name, named := spec.Type.(*ast.Ident)
		lit, isLit := spec.Values[0].(*ast.BasicLit)
		if named && isLit && name.Name == typeName {
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	return values
}

// everyFault is each cause in each phase, with and without an error and a side.
func everyFault(t *testing.T) []health.Fault {
	t.Helper()
	causes, phases, sides := constantsOf(t, "Cause"), constantsOf(t, "Phase"), constantsOf(t, "Side")
	if len(causes) < 22 || len(phases) < 7 || len(sides) < 4 {
		t.Fatalf("got %d causes, %d phases, %d sides: the parser misses some", len(causes), len(phases), len(sides))
	}
	errs := []error{nil, errors.New("dial tcp 10.9.8.7:8080: secret"), alertError(), tls.RecordHeaderError{Msg: "x"}, context.DeadlineExceeded}
	var faults []health.Fault
	for _, c := range append(causes, "", "new") {
		for _, p := range append(phases, "") {
			for i, err := range errs {
				side := health.Side(sides[i%len(sides)])
				faults = append(faults,
					health.Fault{Cause: health.Cause(c), Phase: health.Phase(p), Err: err},
					health.Fault{Cause: health.Cause(c), Phase: health.Phase(p), Err: err, Side: side})
			}
		}
	}
	return faults
}

func alertError() error {
	return fmt.Errorf("wrapped: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")})
}

func TestHintForEveryFault(t *testing.T) {
	fallback := Hint(health.Fault{Cause: health.Unknown})
	for _, f := range everyFault(t) {
		got := Hint(f)
		switch {
		case got == "", strings.TrimSpace(got) != got, strings.Contains(got, "\n"):
			t.Errorf("%s/%s: got %q, want one trimmed line", f.Cause, f.Phase, got)
		case utf8.RuneCountInString(got) > 240:
			t.Errorf("%s/%s: got %d characters, want at most 240: %s", f.Cause, f.Phase, len(got), got)
		case strings.Count(got, "`")%2 != 0:
			t.Errorf("%s/%s: unpaired backquote: %s", f.Cause, f.Phase, got)
		case got == fallback && f.Cause != health.Unknown && f.Cause != "" && f.Cause != "new":
			t.Errorf("%s/%s: has no hint of its own", f.Cause, f.Phase)
		case strings.Contains(got, "10.9.8.7"):
			t.Errorf("%s/%s: repeats the error's text: %s", f.Cause, f.Phase, got)
		}
	}
}

// TestHintNamesRealOptions holds the words in backquotes against a list checked
// by hand with our own options and caddyfile.go of Caddy 2.11.9: diagnose must not
// import Caddy.
func TestHintNamesRealOptions(t *testing.T) {
	known := []string{
		"transport http", "resolvers", "dial_timeout", "tls_timeout", "response_header_timeout", "keepalive",
		"keepalive_idle_conns_per_host", "tls", "tls_server_name", "tls_client_auth",
		"transport http { tls_trust_pool file /path/to/ca.pem }",
		"health_uri", "max_fails", "unhealthy_request_count", "header_up", "rewrite",
		"read_timeout", "dynamic", "stall",
		"net.ipv4.ip_local_port_range", "net.ipv4.tcp_mem",
		"dig", "ip route get", "ping", "dmesg -T", "openssl s_client -connect", "ss -s", "free -m",
		"systemctl edit caddy", "ulimit -n", "ls -l /proc/PID/fd", "/reverse_proxy/upstreams", "curl localhost:2019/reset_guard/upstreams",
		"curl localhost:2019/reset_guard/pressure",
		"curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'",
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	for _, f := range everyFault(t) {
		for _, m := range quoted.FindAllStringSubmatch(Hint(f), -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s/%s: %q is not in the list of checked names", f.Cause, f.Phase, m[1])
			}
		}
	}
}

func TestHintSaysWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault health.Fault
		want  string
	}{
		{"name is wrong", health.Fault{Cause: health.DNS, Err: &net.DNSError{IsNotFound: true}}, "does not resolve"},
		{"resolver is silent", health.Fault{Cause: health.DNS, Err: &net.DNSError{IsTimeout: true}}, "resolver does not answer"},
		{"not running", health.Fault{Cause: health.Refused, Phase: health.PhaseDial}, "running"},
		{"firewall drops", health.Fault{Cause: health.Timeout, Phase: health.PhaseDial}, "firewall"},
		{"own limit", health.Fault{Cause: health.Timeout, Phase: health.PhaseWait, Side: health.SideProxy}, "this server's own"},
		{"host vanished", health.Fault{Cause: health.Timeout, Phase: health.PhaseBody, Side: health.SideNetwork}, "acknowledging"},
		{"firewall drops, on the network's side", health.Fault{Cause: health.Timeout, Phase: health.PhaseDial, Side: health.SideNetwork}, "firewall"},
		{"cannot be sent", health.Fault{Cause: health.Protocol, Phase: health.PhaseWrite, Side: health.SideClient}, "header_up"},
		{"slow application", health.Fault{Cause: health.Timeout, Phase: health.PhaseWait}, "slow queries"},
		{"slow on a reused connection", health.Fault{Cause: health.Timeout, Phase: health.PhaseStale}, "slow queries"},
		{"keep-alive race", health.Fault{Cause: health.Reset, Phase: health.PhaseStale}, "Node.js"},
		{"keep-alive race in good order", health.Fault{Cause: health.Closed, Phase: health.PhaseStale}, "`keepalive`"},
		{"crash", health.Fault{Cause: health.Reset, Phase: health.PhaseWait}, "OOM killer"},
		{"crash in the middle", health.Fault{Cause: health.Closed, Phase: health.PhaseBody}, "in the middle"},
		{"upload refused", health.Fault{Cause: health.Reset, Phase: health.PhaseWrite}, "body size limit"},
		{"expired", health.Fault{Cause: health.TLSExpired, Phase: health.PhaseTLS}, "Renew"},
		{"own authority", health.Fault{Cause: health.TLSUntrusted, Phase: health.PhaseTLS}, "tls_trust_pool"},
		{"other name", health.Fault{Cause: health.TLSName, Phase: health.PhaseTLS}, "tls_server_name"},
		{"plaintext", health.Fault{Cause: health.TLSHandshake, Phase: health.PhaseTLS, Err: tls.RecordHeaderError{}}, "plain HTTP"},
		{"client certificate", health.Fault{Cause: health.TLSHandshake, Phase: health.PhaseWait, Err: alertError()}, "tls_client_auth"},
		{"behind the origin", health.Fault{Cause: health.Status, StatusCode: 502}, "what lies behind it"},
		{"maintenance", health.Fault{Cause: health.Status, StatusCode: 503}, "maintenance"},
		{"ports", health.Fault{Cause: health.LocalPorts, Phase: health.PhaseDial}, "ip_local_port_range"},
		{"files", health.Fault{Cause: health.LocalFiles, Phase: health.PhaseDial}, "LimitNOFILE"},
		{"all down", health.Fault{Cause: health.NoUpstream}, "marked down"},
		{"all ordered out", health.Fault{Cause: health.NoUpstream, Side: health.SideProxy}, "Operators"},
		{"patience", health.Fault{Cause: health.ClientGone, Phase: health.PhaseWait}, "slow answers"},
	} {
		if got := Hint(tc.fault); !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want it to speak of %q", tc.name, got, tc.want)
		}
	}
}
