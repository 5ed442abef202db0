// SPDX-License-Identifier: Apache-2.0

// Answers that are faults by their status.

package health_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

func gateway(weight float64, cause health.Cause) want {
	return want{
		cause: cause, phases: at(health.PhaseHeaders), side: health.SideUpstream,
		weight: weight, safety: health.IfIdempotent,
	}
}

var statusCases = []faultCase{
	{"gateway_status", "502", answered(502, 0), gateway(1, health.Status)},
	{"gateway_status", "504", answered(504, 0), gateway(1, health.Status)},
	{"gateway_status", "503 without Retry-After", answered(503, 0), gateway(1, health.Status)},
	{"pushback", "503 with Retry-After", answered(503, 7*time.Second), gateway(0, health.Overloaded)},
	{"pushback", "429", answered(429, 0), gateway(0, health.Overloaded)},
	{"pushback", "429 with Retry-After", answered(429, 7*time.Second), gateway(0, health.Overloaded)},

	// Answers of the application are no faults, unless the operator says so.
	{"app_error", "500", notAFault(500), want{}},
	{"app_error", "501", notAFault(501), want{}},
	{"app_error", "505", notAFault(505), want{}},
}

func TestClassifyStatus(t *testing.T) { runCases(t, statusCases) }

// answered classifies the status of an origin's answer.
func answered(status int, retryAfter time.Duration) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		a := tryOrigin(t, faultinject.Config{Fault: faultinject.Status, Status: status, RetryAfter: retryAfter}, send{warm: true})
		a.inBody = false
		seconds, _ := strconv.Atoi(a.response.Header.Get("Retry-After"))
		f := health.ClassifyStatus(a.response.StatusCode, time.Duration(seconds)*time.Second, a.evidence())
		if f.StatusCode != status || f.RetryAfter != retryAfter || f.Err != nil {
			t.Errorf("got status %d, retry after %v, error %v; want %d, %v, none", f.StatusCode, f.RetryAfter, f.Err, status, retryAfter)
		}
		if !f.Reused || f.Sent <= 0 || f.Received <= 0 {
			t.Errorf("got reused %v, %d bytes sent, %d received; want the connection's facts", f.Reused, f.Sent, f.Received)
		}
		return f
	}
}

func notAFault(status int) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		a := tryOrigin(t, faultinject.Config{Fault: faultinject.Status, Status: status}, send{})
		p := failover.DefaultPolicy()
		if a.err != nil || a.response.StatusCode != status || p.RetriesStatus(a.response.StatusCode) {
			t.Errorf("status %d is a fault by default, want none", status)
		}
		if p.RetryStatus = []int{status}; !p.RetriesStatus(status) {
			t.Errorf("status %d is no fault although the operator says so", status)
		}
		return health.Fault{}
	}
}

// What is not known of a connection is not made up.
func TestClassifyStatusUnwatched(t *testing.T) {
	f := health.ClassifyStatus(http.StatusBadGateway, 0, health.Evidence{})
	if f.Sent != -1 || f.Received != -1 {
		t.Errorf("got %d bytes sent, %d received; want -1 for unknown", f.Sent, f.Received)
	}
	gateway(1, health.Status).check(t, f)
}
