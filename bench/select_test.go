// SPDX-License-Identifier: Apache-2.0

// What choosing an upstream costs, by how many there are.

package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// proxyWith provisions a proxy that chooses by the policy among n upstreams. It
// connects to none of them.
func proxyWith(b *testing.B, policy string, n int) *reverseproxy.Handler {
	b.Helper()
	// Provisioned and not started: the guard's app subscribes to Caddy's start.
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	if err != nil {
		b.Fatal(err)
	}
	upstreams := make([]map[string]string, n)
	for i := range upstreams {
		upstreams[i] = map[string]string{"dial": fmt.Sprintf("10.0.%d.%d:80", i>>8, i&0xff)}
	}
	config, err := json.Marshal(map[string]any{
		"upstreams":      upstreams,
		"load_balancing": map[string]any{"selection_policy": json.RawMessage(policy)},
	})
	if err != nil {
		b.Fatal(err)
	}
	mod, err := ctx.LoadModuleByID("http.handlers.reverse_proxy", config)
	if err != nil {
		b.Fatal(err)
	}
	return mod.(*reverseproxy.Handler)
}

// BenchmarkSelect compares the guard's own choice, and the guard around another
// policy, with Caddy's choice of two, and with the cheapest of Caddy's.
func BenchmarkSelect(b *testing.B) {
	for _, p := range []struct{ name, policy string }{
		{"stock random_choose", `{"policy": "random_choose", "choose": 2}`},
		{"stock round_robin", `{"policy": "round_robin"}`},
		{"reset_guard", `{"policy": "reset_guard"}`},
		{"reset_guard round_robin", `{"policy": "reset_guard", "selection_policy": {"policy": "round_robin"}}`},
	} {
		for _, n := range []int{3, 100, 1000} {
			b.Run(fmt.Sprintf("%s/upstreams=%d", p.name, n), func(b *testing.B) {
				proxy := proxyWith(b, p.policy, n)
				selector := proxy.LoadBalancing.SelectionPolicy
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
				b.ReportAllocs()
				for b.Loop() {
					if selector.Select(proxy.Upstreams, r, w) == nil {
						b.Fatal("nobody was chosen")
					}
				}
			})
		}
	}
}
