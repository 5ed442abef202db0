// SPDX-License-Identifier: Apache-2.0

// Each shortage of this host is explained.

package caddymodule

import (
	"testing"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/health/pressure"
)

func TestShortagesAreExplained(t *testing.T) {
	for _, r := range pressure.Resources() {
		hint := diagnose.ShortageHint(r.String())
		if r == pressure.Injected {
			continue // tests only
		}
		if hint == "" || len(hint) > 240 {
			t.Errorf("%s: got a hint of %d characters, want 1 to 240", r, len(hint))
		}
	}
	if got := diagnose.ShortageHint("something else"); got != "" {
		t.Errorf("got %q for an unknown resource", got)
	}
}
