// SPDX-License-Identifier: Apache-2.0

// How the admin API reads what it is given.

package caddymodule

import "testing"

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
