// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"fmt"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage" // for a storage of the test's own
)

const caddyfileOfTest = `{
	admin off
	auto_https off
	persist_config off
	storage file_system %s
	storage_check off
	storage_clean_interval off
	log {
		output discard
	}
	servers {
		protocols %s
	}
}
http://%s {
	fault /reset reset_in_body {
		after 5
	}
	fault /never reset_in_body 0
	handle {
		respond "hello, world"
	}
}`

// TestInCaddy runs real Caddys: their listeners put different things around
// the connection, and the reset has to find the socket below.
func TestInCaddy(t *testing.T) {
	for _, protocols := range []string{"h1", "h1 h2", "h1 h2c"} {
		t.Run(protocols, func(t *testing.T) {
			addr := freeAddr(t)
			cfg, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, caddyfileOfTest, t.TempDir(), protocols, addr), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := caddy.Load(cfg, true); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := caddy.Stop(); err != nil {
					t.Error(err)
				}
			}()
			for path, want := range map[string]string{"/reset": "hello", "/never": "hello, world", "/": "hello, world"} {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				got := exchange(t, c, "GET "+path+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n")
				got.check(t, path == "/reset", containing("\r\n\r\n"+want))
				c.Close()
			}
		})
	}
}

// freeAddr is an address with a port that is held for the test.
func freeAddr(t *testing.T) string {
	t.Helper()
	o := start(t, Config{Fault: Refuse})
	return o.Addr()
}
