// SPDX-License-Identifier: Apache-2.0

// One Caddy with a site for each proxy, before the same origin.

package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// directives are compared: stock first.
var directives = [2]string{"reverse_proxy", "reset_guard"}

// unlimited are the options of a guard that sends nobody away, however busy this host is,
// with other tests for one.
const unlimited = "overload off\nrate_limit off"

// long tells that the figures are wanted, and not only whether all still runs.
func long() bool { return os.Getenv("RESET_GUARD_LONG") != "" }

// sites runs a Caddy that speaks HTTP/1.1 and HTTP/2 without TLS, with one site for
// each proxy before upstream, and returns their addresses. The options are those
// of reset_guard.
func sites(tb testing.TB, upstream, options string) (addrs [2]string) {
	tb.Helper()
	config := "{\n\tadmin off\n\tpersist_config off\n\tgrace_period 1s\n\tlog {\n\t\toutput discard\n\t}\n\tservers {\n\t\tprotocols h1 h2c\n\t}\n}\n"
	for i, d := range directives {
		addrs[i] = freeAddr(tb)
		if d == directives[0] {
			config += fmt.Sprintf("http://%s {\n\t%s %s\n}\n", addrs[i], d, upstream)
			continue
		}
		config += fmt.Sprintf("http://%s {\n\t%s %s {\n%s\n}\n}\n", addrs[i], d, upstream, options)
	}
	json, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := caddy.Load(json, true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = caddy.Stop() })
	return addrs
}
