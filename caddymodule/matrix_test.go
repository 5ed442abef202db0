// SPDX-License-Identifier: Apache-2.0

// The matrix: faults x methods x bodies, with one of three origins always at
// fault, through a real Caddy.

package caddymodule_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// safety is what a fault allows, as the origins see it.
type safety int

const (
	anyMethod  safety = iota // nothing was sent, or the origin says that it did nothing
	maybe                    // depends on which packet came first
	idempotent               // the origin may have acted
)

type matrixFault struct {
	fault  faultinject.Fault
	safety safety
}

// matrixFaults are the faults that HTTP/1 origins can have before anything has
// been committed.
var matrixFaults = []matrixFault{
	{faultinject.Refuse, anyMethod},
	{faultinject.ResetOnAccept, maybe},
	{faultinject.CloseOnAccept, maybe},
	{faultinject.ResetAfterHeader, idempotent},
	{faultinject.ResetInUpload, idempotent},
	{faultinject.CloseInUpload, idempotent},
	{faultinject.ResetAfterRequest, idempotent},
	{faultinject.CloseAfterRequest, idempotent},
	{faultinject.ResetInHeaders, idempotent},
	{faultinject.CloseInHeaders, idempotent},
	{faultinject.ResetInBody, idempotent},
	{faultinject.CloseInBody, idempotent},
	{faultinject.ResetReused, idempotent},
	{faultinject.CloseReused, idempotent},
	{faultinject.ResetIdle, maybe},
	{faultinject.CloseIdle, maybe},
	{faultinject.Garbage, idempotent},
	{faultinject.BadHeader, idempotent},
	{faultinject.StallBeforeHeaders, idempotent},
	{faultinject.StallInHeaders, idempotent},
	{faultinject.Status502, idempotent},
	{faultinject.Status503, idempotent},
	{faultinject.Status504, idempotent},
}

type matrixRequest struct {
	method  string
	key     bool
	body    []byte
	chunked bool
}

func (m matrixRequest) String() string {
	name := m.method
	if m.key {
		name += "+key"
	}
	if m.chunked {
		return fmt.Sprintf("%s/chunked-%d", name, len(m.body))
	}
	return fmt.Sprintf("%s/%d", name, len(m.body))
}

func (m matrixRequest) idempotent() bool { return m.method != http.MethodPost || m.key }

func matrixRequests() []matrixRequest {
	small, large := faultinject.Bytes(64<<10), faultinject.Bytes(4<<20)
	all := []matrixRequest{{method: http.MethodGet}, {method: http.MethodHead}}
	for _, m := range []matrixRequest{
		{method: http.MethodPut},
		{method: http.MethodDelete},
		{method: http.MethodPost},
		{method: http.MethodPost, key: true},
	} {
		all = append(all, m)
		for _, body := range [][]byte{small, large} {
			m.body, m.chunked = body, false
			all = append(all, m)
		}
		m.body, m.chunked = small, true
		all = append(all, m)
	}
	return all
}

// response size is within what is held.
const matrixResponse = 8 << 10

func TestMatrix(t *testing.T) {
	runMatrix(t, faultinject.H1, matrixFaults)
}

func TestMatrixTLS(t *testing.T) {
	runMatrix(t, faultinject.H1TLS, []matrixFault{
		{faultinject.TLSExpired, anyMethod},
		{faultinject.TLSWrongName, anyMethod},
		{faultinject.TLSUntrusted, anyMethod},
		{faultinject.TLSVersion, anyMethod},
		{faultinject.TLSReset, anyMethod},
		{faultinject.TLSClose, anyMethod},
		{faultinject.TLSStall, anyMethod},
		{faultinject.TLSPlaintext, anyMethod},
		{faultinject.TLSAlert, anyMethod},
		{faultinject.Refuse, anyMethod},
		{faultinject.ResetOnAccept, anyMethod},
		{faultinject.ResetAfterRequest, idempotent},
		{faultinject.CloseInHeaders, idempotent},
		{faultinject.ResetInBody, idempotent},
	})
}

func TestMatrixHTTP2(t *testing.T) {
	faults := []matrixFault{
		{faultinject.GoAway, anyMethod},
		{faultinject.GoAwayCalm, idempotent},
		{faultinject.RefusedStream, anyMethod},
		{faultinject.StreamCancel, idempotent},
		{faultinject.StreamInternalError, idempotent},
		{faultinject.StreamProtocolError, idempotent},
		{faultinject.StreamCalm, idempotent},
		{faultinject.StreamResetInBody, idempotent},
		{faultinject.H2ConnLost, idempotent},
		{faultinject.StallBeforeHeaders, idempotent},
		{faultinject.Status503, idempotent},
	}
	for _, proto := range []faultinject.Protocol{faultinject.H2, faultinject.H2C} {
		t.Run(string(proto), func(t *testing.T) { runMatrix(t, proto, faults) })
	}
}

func runMatrix(t *testing.T, proto faultinject.Protocol, faults []matrixFault) {
	requests := matrixRequests()
	for _, f := range faults {
		t.Run(string(f.fault), func(t *testing.T) {
			m := newMatrix(t, f.fault, proto)
			for i, req := range requests {
				for round := range 2 { // the second one meets reused connections
					m.check(req, f.safety, fmt.Sprintf("%s-%d-%d", f.fault, i, round))
				}
			}
			if f.fault != faultinject.ResetIdle && f.fault != faultinject.CloseIdle {
				m.explained(f.fault) // an idle connection's end is no fault unless a request meets it
			}
		})
	}
}

// matrix is three origins, the first of which is at fault and chosen first.
type matrix struct {
	*testing.T
	origins []*faultinject.Origin
	site    *server
	client  *http.Client
}

func newMatrix(t *testing.T, fault faultinject.Fault, proto faultinject.Protocol) *matrix {
	m := &matrix{T: t, client: newClient(t)}
	m.origins = append(m.origins, startOrigin(t, faultinject.Config{Name: "bad", Fault: fault, Protocol: proto}))
	for _, name := range []string{"good1", "good2"} {
		m.origins = append(m.origins, startOrigin(t, faultinject.Config{Name: name, Protocol: proto}))
	}
	scheme, tls := "", ""
	switch proto {
	case faultinject.H2C:
		scheme = "h2c://"
	case faultinject.H1TLS, faultinject.H2:
		scheme, tls = "https://", "tls_trust_pool file "+m.authorities()+"\n\t\t\ttls_timeout 1s"
	}
	m.site = serve(t, fmt.Sprintf(`reset_guard %s%s %s%s %s%s {
		lb_policy first
		transport http {
			dial_timeout 1s
			response_header_timeout 800ms
			%s
		}
	}`, scheme, m.origins[0].Addr(), scheme, m.origins[1].Addr(), scheme, m.origins[2].Addr(), tls))
	return m
}

// authorities writes the origins' certificate authorities into files.
func (m *matrix) authorities() string {
	var files []string
	for i, o := range m.origins {
		name := filepath.Join(m.TempDir(), fmt.Sprintf("ca%d.pem", i))
		if err := os.WriteFile(name, o.CAPEM(), 0o600); err != nil {
			m.Fatal(err)
		}
		files = append(files, name)
	}
	return strings.Join(files, " ")
}

func startOrigin(tb testing.TB, cfg faultinject.Config) *faultinject.Origin {
	tb.Helper()
	o, err := faultinject.Start(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(o.Close)
	return o
}

// check sends one request and holds what came of it against the invariants.
func (m *matrix) check(q matrixRequest, s safety, id string) {
	m.Helper()
	status, err := m.send(q, id)
	switch {
	case err != nil:
		m.Errorf("%v: the client saw %v, want an answer or a clean error", q, err)
	case status == http.StatusOK:
	case q.idempotent() || s == anyMethod:
		m.Errorf("%v: got status %d, want 200: this request may be sent again", q, status)
	case status != 502 && status != 503 && status != 504:
		m.Errorf("%v: got status %d, want 200 or a gateway error", q, status)
	}
	if n := m.executions(id); !q.idempotent() && n > 1 {
		m.Errorf("%v: executed %d times, want once at the most", q, n)
	}
}

func (m *matrix) executions(id string) (n int) {
	for _, o := range m.origins {
		n += o.Executions(id)
	}
	return n
}

// send returns the status, and an error for everything that is not a complete
// and correct HTTP response.
func (m *matrix) send(q matrixRequest, id string) (int, error) {
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
		if q.chunked {
			body = io.MultiReader(body) // hides the length
		}
	}
	req, err := http.NewRequestWithContext(m.Context(), q.method, m.site.url(fmt.Sprintf("/bytes/%d", matrixResponse)), body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Request-Id", id)
	if q.key {
		req.Header.Set("Idempotency-Key", id)
	}
	res, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, fmt.Errorf("reading the body of a %d: %w", res.StatusCode, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.StatusCode, compare(q, res, got)
	}
	return res.StatusCode, nil
}

func compare(q matrixRequest, res *http.Response, got []byte) error {
	want := faultinject.Bytes(matrixResponse)
	if q.method == http.MethodHead {
		want = nil
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("a 200 with %d bytes that differ from the %d expected", len(got), len(want))
	}
	sum := sha256.Sum256(q.body)
	if have := res.Header.Get("X-Body-Sha256"); q.body != nil && have != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the origin %s received another body: sha256 %q", res.Header.Get("X-Origin"), have)
	}
	return nil
}

// explained checks that faults were told, each with all that an operator needs.
func (m *matrix) explained(fault faultinject.Fault) {
	m.Helper()
	lines := m.site.faults(m)
	if len(lines) == 0 {
		m.Fatalf("no line in the log explains %s", fault)
	}
	for _, l := range lines {
		for _, key := range []string{"upstream", "cause", "phase", "side", "action", "outcome", "request_id", "uri"} {
			if l.text(key) == "" {
				m.Errorf("log line without %s: %v", key, l)
			}
		}
		if l.text("cause") == "unknown" {
			m.Errorf("fault %s was not recognised: %v", fault, l)
		}
		if got := l.text("upstream"); got != m.origins[0].Addr() {
			m.Fatalf("fault %s is blamed on %s, want %s: %v", fault, got, m.origins[0].Addr(), l)
		}
		if l.text("action") == "gave_up" && l.text("hint") == "" {
			m.Errorf("gave up without a hint: %v", l)
		}
	}
}
