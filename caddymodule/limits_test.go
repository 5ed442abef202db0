// SPDX-License-Identifier: Apache-2.0

// Where the guard meets limits and counters that are Caddy's own.

package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// A status that is retried is no failure to fail_duration, as it is none in the
// stock proxy: one broken page must not take the origins away.
func TestRetriedStatusMarksNobodyDown(t *testing.T) {
	var asked [2]atomic.Int32
	page := func(i int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/broken" {
				asked[i].Add(1)
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, "ok")
		}
	}
	site := serve(t, fmt.Sprintf("reset_guard %s {\n fail_duration 1m\n max_fails 1\n lb_policy first\n }", join(origin(t, page(0)), origin(t, page(1)))))
	for range 3 {
		expect(t, "status of the broken page", site.get(t, "/broken").status, http.StatusServiceUnavailable)
		expect(t, "status of another", site.get(t, "/").status, http.StatusOK)
	}
	for i := range asked {
		expect(t, fmt.Sprintf("requests that origin %d got", i), asked[i].Load(), int32(3))
	}
}

// What is retried by the proxy's own matcher leads to a right answer too, with
// one line of the fault.
func TestRetriedStatusWithFailDuration(t *testing.T) {
	sick := origin(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	site := serve(t, fmt.Sprintf("reset_guard %s {\n fail_duration 1m\n lb_policy first\n }", join(sick, origin(t, named("second")))))
	for range 3 {
		expect(t, "body", site.get(t, "/").body, "second")
	}
	for _, l := range site.faults(t) {
		if l.text("action") != "retried" || l.text("outcome") != "answered" || l.text("cause") != "status" {
			t.Errorf("got %v", l)
		}
	}
	expect(t, "faults told", len(site.faults(t)), 3)
}

// A request that is not idempotent gets the origin's own answer.
func TestUnretriedStatusStands(t *testing.T) {
	sick := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "the origin's own page")
	})
	site := serve(t, fmt.Sprintf("reset_guard %s {\n fail_duration 1m\n lb_policy first\n }", join(sick, origin(t, named("second")))))
	res, err := newClient(t).Post(site.url("/"), "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	expect(t, "status", res.StatusCode, http.StatusBadGateway)
	expect(t, "body", string(body), "the origin's own page")
}

// lb_retries may be higher than attempts can be, and lb_try_duration alone sets
// no number.
func TestProxyLimitsAreNotCut(t *testing.T) {
	for name, limit := range map[string]string{
		"lb_retries":      "lb_retries 24",
		"lb_try_duration": "lb_try_duration 10s\n lb_try_interval 1ms",
	} {
		t.Run(name, func(t *testing.T) {
			var addrs []string
			for range 24 {
				addrs = append(addrs, startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest}).Addr())
			}
			addrs = append(addrs, origin(t, named("the last one")))
			site := serve(t, fmt.Sprintf("reset_guard %s {\n lb_policy first\n %s\n }", join(addrs...), limit))
			expect(t, "body", site.get(t, "/").body, "the last one")
		})
	}
}

// An idempotency key that the operator does not trust is hidden from net/http,
// which would repeat the request on its own; the origin still gets it.
func TestUntrustedIdempotencyKey(t *testing.T) {
	for option, executions := range map[string]int{"off": 1, "Idempotency-Key": 2} {
		t.Run(option, func(t *testing.T) {
			o := startOrigin(t, faultinject.Config{})
			site := serve(t, fmt.Sprintf("reset_guard %s {\n failover {\n idempotency_key %s\n attempts 1\n }\n }", o.Addr(), option))
			client := newClient(t)
			if _, err := client.Get(site.url("/bytes/1")); err != nil { // a connection that is used again
				t.Fatal(err)
			}
			if err := o.SetFault(faultinject.ResetReused, 1); err != nil {
				t.Fatal(err)
			}
			before := o.Requests()
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, site.url("/"), nil)
			req.Header.Set("Idempotency-Key", "k")
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			expect(t, "times the request reached the origin", o.Requests()-before, executions)
		})
	}
}

// The wait before an origin is tried again is nobody's latency.
func TestWaitIsNoLatency(t *testing.T) {
	var asked atomic.Int32
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 2 { // 25 to 50 ms, then 100 to 200 ms
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "ok")
	})
	site := serve(t, fmt.Sprintf("reset_guard %s {\n header_down X-Latency {rp.upstream.latency_ms}\n }", o))
	start := time.Now()
	res, err := newClient(t).Get(site.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	took := time.Since(start)
	latency, err := time.ParseDuration(res.Header.Get("X-Latency") + "ms")
	if err != nil {
		t.Fatal(err)
	}
	if waited := 125 * time.Millisecond; took < waited || latency > took-waited {
		t.Errorf("latency: got %s of %s, want less by %s", latency, took, waited)
	}
}
