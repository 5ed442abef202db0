// SPDX-License-Identifier: Apache-2.0

// Retries and the policies that take turns.

package caddymodule_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// A retry takes no turn: with one origin of three at fault, a third of the
// requests begins there, whatever the retries do.
func TestRetriesTakeNoTurn(t *testing.T) {
	for _, policy := range []string{"round_robin", "weighted_round_robin 1 1 1"} {
		t.Run(policy, func(t *testing.T) {
			bad := startOrigin(t, faultinject.Config{Fault: faultinject.Status503})
			a, b := startOrigin(t, faultinject.Config{}), startOrigin(t, faultinject.Config{})
			site := serve(t, "reset_guard "+join(bad.Addr(), a.Addr(), b.Addr())+" {\n\tlb_policy "+policy+"\n\teject off\n}")
			client := newClient(t)
			const requests = 90
			for i := range requests {
				res, err := client.Get(site.url("/bytes/10"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("request %d: got status %d, error %v", i, res.StatusCode, err)
				}
				res.Body.Close()
			}
			if n := bad.Requests(); n != requests/3 {
				t.Errorf("%d of %d requests began at the faulty origin, want a third", n, requests)
			}
		})
	}
}

// An origin with weight zero gets nothing, not even a retry.
func TestRetriesKeepZeroWeight(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest})
	good, unused := startOrigin(t, faultinject.Config{}), startOrigin(t, faultinject.Config{})
	site := serve(t, "reset_guard "+join(bad.Addr(), good.Addr(), unused.Addr())+" {\n\tlb_policy weighted_round_robin 1 1 0\n}")
	client := newClient(t)
	for range 20 {
		res, err := client.Get(site.url("/x"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), "GET /x") {
			t.Fatalf("got status %d, body %q, error %v", res.StatusCode, body, err)
		}
	}
	if n := unused.Requests(); n != 0 {
		t.Errorf("the origin with weight zero got %d requests", n)
	}
}
