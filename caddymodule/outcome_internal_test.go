// SPDX-License-Identifier: Apache-2.0

// What is read from an origin's response.

package caddymodule

import (
	"net/http"
	"testing"
	"time"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7, " 7 ": 7, "soon": 0, "-1": 0, "1.5": 0, "99999999999999999999": 0,
		now.Add(9 * time.Second).Format(http.TimeFormat): 9,
		now.Add(-time.Hour).Format(http.TimeFormat):      0,
	} {
		if got := parseRetryAfter(http.Header{"Retry-After": {text}}, now); got != want*time.Second {
			t.Errorf("%q: got %v, want %d s", text, got, want)
		}
	}
}
