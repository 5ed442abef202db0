// SPDX-License-Identifier: Apache-2.0

// How the admin API reads what it is given.

package caddymodule

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

func TestAddressIn(t *testing.T) {
	for given, want := range map[string]string{
		"10.0.0.1:8080":         "10.0.0.1:8080",
		"http://10.0.0.1:8080":  "10.0.0.1:8080",
		"https://app.test":      "app.test:443",
		"HTTP://app.test/":      "app.test:80",
		"h2c://[::1]:8080":      "[::1]:8080",
		"https://[::1]":         "[::1]:443",
		"unix//run/app.sock":    "unix//run/app.sock",
		"unix+h2c//run/a.sock":  "unix+h2c//run/a.sock",
		"{http.request.host}:1": "{http.request.host}:1",
		"ftp://app.test":        "ftp://app.test",
		"":                      "",
	} {
		if got := addressIn(given); got != want {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
}

// A limit of 0 is told; no limit is not.
func TestIdleLimitIsTold(t *testing.T) {
	now := time.Now()
	p := &poolInUse{health: health.NewPool(now), limiters: newLimiters()}
	for want, st := range map[string]health.Standing{
		"":                           {},
		`"idle_limit_seconds":0`:     {LimitsIdle: true},
		`"idle_limit_seconds":4.275`: {LimitsIdle: true, IdleLimit: 4275 * time.Millisecond},
	} {
		text, err := json.Marshal(statusOf(p, st, now))
		if err != nil {
			t.Fatal(err)
		}
		if told := bytes.Contains(text, []byte("idle_limit_seconds")); told != (want != "") || !bytes.Contains(text, []byte(want)) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}
