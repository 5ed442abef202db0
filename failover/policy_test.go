// SPDX-License-Identifier: Apache-2.0

// What a policy allows, and which requests it takes for idempotent.

package failover_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/failover"
)

func TestPolicyValidate(t *testing.T) {
	set := func(change func(*failover.Policy)) failover.Policy {
		p := failover.DefaultPolicy()
		change(&p)
		return p
	}
	for _, tc := range []struct {
		name   string
		policy failover.Policy
		want   string // the beginning of the error; empty: none
	}{
		{"ok/default", failover.DefaultPolicy(), ""},
		{"ok/one attempt", set(func(p *failover.Policy) { p.Attempts = 1 }), ""},
		{"ok/most attempts", set(func(p *failover.Policy) { p.Attempts = failover.MaxAttempts }), ""},
		{"ok/within zero", set(func(p *failover.Policy) { p.Within = 0 }), ""},
		{"ok/within longest", set(func(p *failover.Policy) { p.Within = failover.MaxWithin }), ""},
		{"ok/nothing replayed", set(func(p *failover.Policy) { p.ReplayMemory, p.ReplayFile = 0, 0 }), ""},
		{"ok/most replayed", set(func(p *failover.Policy) {
			p.ReplayMemory, p.ReplayFile = failover.MaxReplayMemory, failover.MaxReplayFile
		}), ""},
		{"ok/nothing held", set(func(p *failover.Policy) { p.HoldBytes, p.HoldFor = 0, 0 }), ""},
		{"ok/most held", set(func(p *failover.Policy) { p.HoldBytes, p.HoldFor = failover.MaxHoldBytes, failover.MaxHoldFor }), ""},
		{"ok/no status", set(func(p *failover.Policy) { p.RetryStatus = nil }), ""},
		{"ok/errors", set(func(p *failover.Policy) { p.RetryStatus = []int{400, 599} }), ""},

		{"bad/no attempts", set(func(p *failover.Policy) { p.Attempts = 0 }), "attempts is 0: allowed is 1 to 20"},
		{"bad/attempts", set(func(p *failover.Policy) { p.Attempts = failover.MaxAttempts + 1 }), "attempts is 21"},
		{"bad/within", set(func(p *failover.Policy) { p.Within = failover.MaxWithin + 1 }), "within is 10m0.000000001s: allowed is 0s to 10m0s"},
		{"bad/within negative", set(func(p *failover.Policy) { p.Within = -time.Second }), "within is -1s"},
		{"bad/memory", set(func(p *failover.Policy) { p.ReplayMemory = failover.MaxReplayMemory + 1 }), "replay in memory is 1073741825 bytes"},
		{"bad/memory negative", set(func(p *failover.Policy) { p.ReplayMemory = -1 }), "replay in memory is -1 bytes"},
		{"bad/file", set(func(p *failover.Policy) { p.ReplayFile = failover.MaxReplayFile + 1 }), "replay in a file is 1099511627777 bytes"},
		{"bad/file negative", set(func(p *failover.Policy) { p.ReplayFile = -1 }), "replay in a file is -1 bytes"},
		{"bad/hold", set(func(p *failover.Policy) { p.HoldBytes = failover.MaxHoldBytes + 1 }), "hold is 16777217 bytes"},
		{"bad/hold negative", set(func(p *failover.Policy) { p.HoldBytes = -1 }), "hold is -1 bytes"},
		{"bad/hold for", set(func(p *failover.Policy) { p.HoldFor = failover.MaxHoldFor + 1 }), "hold is 10.000000001s"},
		{"bad/hold for negative", set(func(p *failover.Policy) { p.HoldFor = -1 }), "hold is -1ns"},
		{"bad/status of success", set(func(p *failover.Policy) { p.RetryStatus = []int{502, 399} }), "retry_status 399: allowed is 400 to 599"},
		{"bad/status", set(func(p *failover.Policy) { p.RetryStatus = []int{600} }), "retry_status 600"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.policy.Validate()
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// An operator learns of all mistakes at once.
func TestPolicyValidateTellsAll(t *testing.T) {
	err := failover.Policy{Within: -1, HoldBytes: -1, RetryStatus: []int{200, 201}}.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("got %v, want five lines: attempts, within, hold and two statuses", err)
	}
}

func TestPolicyIdempotent(t *testing.T) {
	p := failover.DefaultPolicy()
	without := p
	without.IdempotencyKeys = nil
	for _, tc := range []struct {
		method string
		header http.Header
		policy failover.Policy
		want   bool
	}{
		{method: "", policy: p, want: true},
		{method: "GET", policy: p, want: true},
		{method: "HEAD", policy: p, want: true},
		{method: "OPTIONS", policy: p, want: true},
		{method: "TRACE", policy: p, want: true},
		{method: "PUT", policy: p, want: true},
		{method: "DELETE", policy: p, want: true},
		{method: "GET", policy: without, want: true},
		{method: "POST", policy: p, want: false},
		{method: "PATCH", policy: p, want: false},
		{method: "CONNECT", policy: p, want: false},
		{method: "get", policy: p, want: false}, // methods are case-sensitive (RFC 9110 section 9.1)
		{method: "PROPFIND", policy: p, want: false},
		{method: "POST", header: http.Header{"Idempotency-Key": {"8e03978e"}}, policy: p, want: true},
		{method: "PATCH", header: http.Header{"X-Idempotency-Key": {"8e03978e"}}, policy: p, want: true},
		{method: "POST", header: http.Header{"Idempotency-Key": {""}}, policy: p, want: false},
		{method: "POST", header: http.Header{"Idempotency-Key": {"8e03978e"}}, policy: without, want: false},
		{method: "POST", header: http.Header{"Other-Key": {"8e03978e"}}, policy: p, want: false},
	} {
		r := &http.Request{Method: tc.method, Header: tc.header}
		if got := tc.policy.Idempotent(r); got != tc.want {
			t.Errorf("%s %v with keys %v: got %v, want %v", tc.method, tc.header, tc.policy.IdempotencyKeys, got, tc.want)
		}
	}
}

func TestPolicyRetriesStatus(t *testing.T) {
	p := failover.DefaultPolicy()
	for status, want := range map[int]bool{200: false, 404: false, 429: false, 500: false, 501: false, 502: true, 503: true, 504: true, 505: false} {
		if got := p.RetriesStatus(status); got != want {
			t.Errorf("status %d: got %v, want %v", status, got, want)
		}
	}
	p.RetryStatus = []int{200} // Validate refuses it, and a success is never thrown away
	if p.RetriesStatus(200) {
		t.Error("status 200 is taken for a fault")
	}
}
