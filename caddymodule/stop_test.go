// SPDX-License-Identifier: Apache-2.0

// The end of a configuration: its requests still get their answers.

package caddymodule_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// Caddy stops its apps in any order, and the server goes on for shutdown_delay.
func TestServesUntilTheServerStops(t *testing.T) {
	for range 8 { // one order in two is the bad one
		site := serveConfig(t, "shutdown_delay 200ms", "", "reset_guard "+join(origin(t, named("a")), origin(t, named("b"))))
		client := newClient(t)
		stopped := make(chan error, 1)
		go func() { stopped <- caddy.Stop() }()
		for answered := 0; ; answered++ {
			res, err := client.Get(site.url("/"))
			if err != nil {
				break // the listener is closed
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Fatalf("request %d: got status %d, want 200", answered, res.StatusCode)
			}
		}
		if err := receive(t, "the end of Caddy", stopped); err != nil {
			t.Fatal(err)
		}
	}
}
