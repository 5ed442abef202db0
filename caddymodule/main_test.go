// SPDX-License-Identifier: Apache-2.0

// After all Caddys were stopped nothing may be left of them: no goroutine of the
// guard, of its transports, of the tests' own origins.

package caddymodule_test

import (
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "reset_guard_storage")
	if err != nil {
		panic(err)
	}
	// Not that of whoever runs the tests.
	caddy.DefaultStorage.Path = dir
	goleak.VerifyTestMain(m, append(ofTheProcess(), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))...)
}

// ofTheProcess are the goroutines that Caddy starts for the process, not for a
// configuration. None of them serves requests.
func ofTheProcess() []goleak.Option {
	return []goleak.Option{
		// One for each log file that was ever opened: it waits for a rotation.
		goleak.IgnoreTopFunction("github.com/DeRuina/timberjack.(*Logger).millRun"),
		// One while the storage is locked, to keep the lock.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		// Ends with the certificate cache, a moment after Caddy's stop.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
		// One, started with the first dynamic upstream: it forgets old ones.
		goleak.IgnoreAnyFunction("github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.(*Upstream).fillDynamicHost.func1.1"),
	}
}
