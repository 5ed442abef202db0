// SPDX-License-Identifier: Apache-2.0

// The proxy's own retry options go on meaning what they mean.

package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// lb_retries is a limit of attempts, on one origin as well.
func TestStockRetries(t *testing.T) {
	for _, retries := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(retries), func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
				s := serve(t, fmt.Sprintf("%s %s {\n lb_retries %d\n }", directive, bad.Addr(), retries))
				expect(t, "status", s.get(t, "/").status, http.StatusBadGateway)
				expect(t, "attempts", bad.Requests(), retries+1)
			})
		})
	}
}

// A request that is not idempotent is sent once.
func TestStockRetriesOnlySafeRequests(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
		s := serve(t, fmt.Sprintf("%s %s {\n lb_retries 3\n }", directive, bad.Addr()))
		got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("body")))
		expect(t, "status", got.status, http.StatusBadGateway)
		expect(t, "attempts", bad.Requests(), 1)
	})
}

// lb_try_duration waits for an origin to come up.
func TestStockTryDuration(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		o := startOrigin(t, faultinject.Config{Fault: faultinject.Refuse, Handler: named("up")})
		s := serve(t, fmt.Sprintf("%s %s {\n lb_try_duration 10s\n lb_try_interval 5ms\n }", directive, o.Addr()))
		done := make(chan answer, 1)
		client, req := newClient(t), newRequest(t, http.MethodGet, s.url("/"), nil)
		go func() { done <- do(t, client, req) }()
		eventually(t, "two tries", func() bool {
			n := 0
			for _, l := range s.lines(t) {
				if l.text("logger") == "http.handlers.reverse_proxy" && l.text("msg") == "upstream roundtrip" && l.text("error") != "" {
					n++
				}
			}
			return n >= 2
		})
		expect(t, "answers while the origin was down", len(done), 0)
		if err := o.SetFault(faultinject.None, 1); err != nil {
			t.Fatal(err)
		}
		expect(t, "body", receive(t, "the answer", done).body, "up")
	})
}

// lb_try_duration ends in time if no origin comes up.
func TestStockTryDurationEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf("%s %s {\n lb_try_duration 100ms\n lb_try_interval 5ms\n }", directive, deadAddr(t)))
		expect(t, "status", s.get(t, "/").status, http.StatusBadGateway)
	})
}

// statusOrigin answers its first requests with an error.
func statusOrigin(t *testing.T, status, times int) (addr string, requests *atomic.Int32) {
	requests = new(atomic.Int32)
	return origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if int(requests.Add(1)) <= times {
			w.Header().Set("X-Retry", "yes")
			w.WriteHeader(status)
		}
		_, _ = io.WriteString(w, "origin")
	}), requests
}

// Responses that the operator wants to be retried are retried.
func TestStockRetryMatchOnResponse(t *testing.T) {
	for name, expression := range map[string]string{
		"status": "{rp.status_code} in [500, 409]",
		"header": "{rp.header.X-Retry} == 'yes'",
	} {
		for _, status := range []int{http.StatusInternalServerError, http.StatusConflict} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				onBoth(t, func(t *testing.T, directive string) {
					addr, requests := statusOrigin(t, status, 2)
					s := serve(t, fmt.Sprintf("%s %s {\n lb_retries 3\n lb_retry_match {\n expression `%s`\n }\n }", directive, addr, expression))
					got := s.get(t, "/")
					expect(t, "status", got.status, http.StatusOK)
					expect(t, "X-Retry", got.header.Get("X-Retry"), "")
					expect(t, "attempts", int(requests.Load()), 3)
				})
			})
		}
	}
}

// With a body it is sent again whole, where the proxy has it all.
func TestStockRetryMatchWithBody(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		var n atomic.Int32
		addr := origin(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if n.Add(1) == 1 {
				w.WriteHeader(http.StatusInternalServerError)
			}
			fmt.Fprintf(w, "%d %v", len(body), err)
		})
		s := serve(t, fmt.Sprintf("%s %s {\n request_buffers 1MiB\n lb_retries 3\n lb_retry_match {\n expression `{rp.status_code} == 500`\n }\n }", directive, addr))
		got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), strings.NewReader(strings.Repeat("x", 50_000))))
		expect(t, "status", got.status, http.StatusOK)
		expect(t, "what the origin got", got.body, "50000 <nil>")
		expect(t, "attempts", int(n.Load()), 2)
	})
}

// When the retries are used up, the status is the origin's.
func TestStockRetryMatchUsedUp(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		addr, requests := statusOrigin(t, http.StatusConflict, 100)
		s := serve(t, fmt.Sprintf("%s %s {\n lb_retries 2\n lb_retry_match {\n expression `{rp.status_code} == 409`\n }\n }", directive, addr))
		expect(t, "status", s.get(t, "/").status, http.StatusConflict)
		expect(t, "attempts", int(requests.Load()), 3)
	})
}

// Transport errors can be matched too, and methods.
func TestStockRetryMatchOnError(t *testing.T) {
	for name, matcher := range map[string]string{
		"transport error": "expression `{rp.is_transport_error} && method('POST')`",
		"method":          "method POST",
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
				s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n lb_retries 1\n fail_duration 1m\n request_buffers 1MiB\n lb_retry_match {\n %s\n }\n }",
					directive, bad.Addr(), origin(t, describe), matcher))
				got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("body")))
				expect(t, "body", got.body, "HTTP/1.1 - POST 4 <nil>")
			})
		})
	}
}

// Faults before a response that the operator wants retried, and after it.
func TestGuardFaultsAroundRetryMatch(t *testing.T) {
	for _, c := range []struct {
		name    string
		retries int
		status  int
	}{
		{"the fault is last", 1, http.StatusBadGateway},
		{"the response is last", 2, http.StatusConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaveNothing(t)
			conflict, _ := statusOrigin(t, http.StatusConflict, 100)
			bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
			s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy round_robin\n lb_retries %d\n lb_retry_match {\n expression `{rp.status_code} == 409`\n }\n }",
				guarded, bad.Addr(), conflict, c.retries))
			got := s.get(t, "/", "Accept", "application/problem+json") // round robin begins with the second
			expect(t, "status", got.status, c.status)
			if c.status == http.StatusBadGateway {
				expect(t, "Content-Type", got.header.Get("Content-Type"), "application/problem+json")
			}
			lines := s.faults(t)
			if len(lines) != 1 {
				t.Fatalf("faults: got %d, want 1: %v", len(lines), lines)
			}
			expect(t, "outcome", lines[0].text("outcome"), map[int]string{502: "error", 409: "answered"}[c.status])
		})
	}
}
