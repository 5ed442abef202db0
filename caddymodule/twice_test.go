// SPDX-License-Identifier: Apache-2.0

// Several proxies on the way of one request: what is not idempotent is still
// executed once at the most, unless the operator's own rules ask for more.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// byHand is what reset_guard makes of a reverse_proxy, without the handler.
const byHand = "lb_policy reset_guard first\n lb_retry_match {\n reset_guard\n }\n transport reset_guard\n"

func TestTwoProxiesExecuteOnce(t *testing.T) {
	// A is the origins of the first proxy, B those of the second.
	for name, site := range map[string]string{
		"routes one after the other": "route {\n reset_guard A\n reset_guard B\n }",
		"auth by hand, then guard":   "route {\n forward_auth AUTH {\n uri /auth\n transport reset_guard\n }\n reset_guard A\n }",
		"auth and proxy by hand":     "route {\n forward_auth AUTH {\n uri /auth\n transport reset_guard\n }\n reverse_proxy A {\n " + byHand + "}\n }",
		"within a guard":             "reset_guard A {\n @gone status 404\n handle_response @gone {\n reset_guard B\n }\n }",
	} {
		for _, fault := range []faultinject.Fault{faultinject.CloseAfterRequest, faultinject.ResetInHeaders, faultinject.ResetInUpload, faultinject.Status503} {
			t.Run(name+" "+string(fault), func(t *testing.T) {
				leaveNothing(t)
				var all []*faultinject.Origin
				pool := func() string {
					bad, good := startOrigin(t, faultinject.Config{Fault: fault}), startOrigin(t, faultinject.Config{})
					all = append(all, bad, good)
					return join(bad.Addr(), good.Addr())
				}
				s := serve(t, strings.NewReplacer("AUTH", origin(t, named("yes")), "A", pool(), "B", pool()).Replace(site))
				client := newClient(t)
				for i := range 4 {
					id := fmt.Sprint(fault, i)
					got := do(t, client, newRequest(t, http.MethodPost, s.url("/x"), strings.NewReader(strings.Repeat("x", 10_000)), "X-Request-Id", id))
					n := 0
					for _, o := range all {
						n += o.Executions(id)
					}
					if n != 1 {
						t.Errorf("executed %d times, want once (status %d)", n, got.status)
					}
				}
			})
		}
	}
}
