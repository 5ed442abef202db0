// SPDX-License-Identifier: Apache-2.0

// A configuration that the Caddyfile parser has made is one that Caddy takes as
// JSON: each module of ours reads it without a word left over, writes the same
// again, and finds its values in range.

package caddymodule_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

// ownModules are the modules of ours that have options, by the key that names a
// module in its place.
var ownModules = map[string]func() any{
	"handler":  func() any { return new(caddymodule.Handler) },
	"protocol": func() any { return new(caddymodule.Transport) },
	"policy":   func() any { return new(caddymodule.Selection) },
}

// checkRoundTrip looks at each module of ours within v.
func checkRoundTrip(t *testing.T, v any) {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("writing an accepted configuration: %v", err)
	}
	var generic any
	if err := json.Unmarshal(out, &generic); err != nil {
		t.Fatalf("reading an accepted configuration: %v", err)
	}
	checkModules(t, generic)
}

func checkModules(t *testing.T, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, child := range v {
			checkModules(t, child)
		}
	case map[string]any:
		for key, create := range ownModules {
			if v[key] == "reset_guard" {
				checkModule(t, v, key, create())
			}
		}
		for _, child := range v {
			checkModules(t, child)
		}
	}
}

func checkModule(t *testing.T, options map[string]any, key string, module any) {
	t.Helper()
	own := make(map[string]any, len(options))
	for k, v := range options {
		if k != key {
			own[k] = v
		}
	}
	before, err := json.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.StrictUnmarshalJSON(before, module); err != nil {
		t.Fatalf("%T refuses its own JSON: %v: %s", module, err, before)
	}
	after, err := json.Marshal(module)
	if err != nil {
		t.Fatal(err)
	}
	var again map[string]any
	if err := json.Unmarshal(after, &again); err != nil || !reflect.DeepEqual(again, own) {
		t.Errorf("%T: got %s, want %s", module, after, before)
	}
	if transport, ok := module.(*caddymodule.Transport); ok {
		if err := transport.Failover.ValidateForTest(); err != nil {
			t.Errorf("accepted, but refused when loaded: %v: %s", err, before)
		}
	}
}
