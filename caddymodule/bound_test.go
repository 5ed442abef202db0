// SPDX-License-Identifier: Apache-2.0

// One client must not take away the upstream that it is bound to, and the next
// one, from all others.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// bound is a site whose clients say where they belong.
func bound(t *testing.T, h http.HandlerFunc) *server {
	t.Helper()
	return serve(t, fmt.Sprintf("%s %s {\n lb_policy header X-Tenant\n }", guarded, join(origin(t, h), origin(t, h), origin(t, h), origin(t, h))))
}

func TestSlowPageOfABoundClient(t *testing.T) {
	s := bound(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			pass(r.Context(), 300*time.Millisecond)
		}
	})
	for i := range 240 { // over more than two seconds, for the medians
		expect(t, "status", s.get(t, "/", "X-Tenant", fmt.Sprint(i%60)).status, http.StatusOK)
		pass(t.Context(), 8*time.Millisecond)
	}
	for range 20 {
		expect(t, "status", s.get(t, "/slow", "X-Tenant", "slow").status, http.StatusOK)
	}
	expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
}

func TestErrorPageOfABoundClient(t *testing.T) {
	s := bound(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	for i := range 200 {
		expect(t, "status", s.get(t, "/", "X-Tenant", fmt.Sprint(i%60)).status, http.StatusOK)
	}
	for range 40 {
		expect(t, "status", do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/bad"), nil, "X-Tenant", "bad")).status, http.StatusBadGateway)
		pass(t.Context(), 6*time.Millisecond) // what comes faster counts as one failure
	}
	expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
	expect(t, "pool faults", len(s.told(t, "all upstreams fail alike")), 0)
}
