// SPDX-License-Identifier: Apache-2.0

// What the selection policy refuses when it is loaded.

package caddymodule

import (
	"strings"
	"testing"
)

func TestSelectionValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		s    Selection
		want string
	}{
		"share in percent":      {Selection{Eject: &Eject{MaxShare: 50}}, "write 0.5"},
		"zone of the request's": {Selection{Zone: "{http.request.host}"}, "give a fixed name"},
	} {
		if err := tc.s.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.want)
		}
	}
	if err := (&Selection{Zone: "a}b{"}).Validate(); err != nil {
		t.Errorf("a name with braces: got %v, want it accepted", err)
	}
}
