// SPDX-License-Identifier: Apache-2.0

// Caddy's own adapt cases of reverse_proxy, with the one word changed.

package caddymodule_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var directive = regexp.MustCompile(`(?m)^(\s*)reverse_proxy(\s|$)`)

// TestAdaptLikeStock holds that reset_guard changes nothing of the proxy inside:
// what is left after its wrappers are taken off is what reverse_proxy gives.
func TestAdaptLikeStock(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatalf("finding Caddy's source: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "caddytest/integration/caddyfile_adapt/*"))
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stock, _, _ := strings.Cut(string(content), "----------")
		if config, err := tryAdapt(stock); !directive.MatchString(stock) || err == nil && !strings.Contains(string(config), `"handler":"reverse_proxy"`) {
			continue // the word is no directive there
		}
		cases++
		t.Run(filepath.Base(file), func(t *testing.T) { adaptLikeStock(t, stock) })
	}
	if cases < 25 {
		t.Errorf("only %d adapt cases of reverse_proxy were found", cases)
	}
}

func adaptLikeStock(t *testing.T, stock string) {
	want, wantErr := tryAdapt(stock)
	got, err := tryAdapt(directive.ReplaceAllString(stock, "${1}reset_guard${2}"))
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("got error %v, reverse_proxy gives %v", err, wantErr)
	}
	if err != nil {
		return
	}
	if !strings.Contains(string(got), `"handler":"reset_guard"`) {
		t.Fatal("nothing is guarded")
	}
	a, b := decode(t, want), unwrap(decode(t, got), strings.Contains(string(want), `"retries"`))
	if !reflect.DeepEqual(a, b) {
		have, _ := json.Marshal(b)
		t.Errorf("the inner configuration differs:\n got %s\nwant %s", have, want)
	}
}

func decode(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// unwrap takes the guard's own parts out of a configuration.
func unwrap(v any, keepRetries bool) any {
	switch v := v.(type) {
	case []any:
		kept := []any{}
		for _, e := range v {
			if m, ok := e.(map[string]any); ok && m["handler"] == "reset_guard" {
				continue
			}
			kept = append(kept, unwrap(e, keepRetries))
		}
		return kept
	case map[string]any:
		for k, e := range v {
			v[k] = unwrap(e, keepRetries)
		}
		if v["handler"] == "reverse_proxy" {
			unwrapProxy(v, keepRetries)
		}
	}
	return v
}

func unwrapProxy(proxy map[string]any, keepRetries bool) {
	peel(proxy, "transport", "protocol", "transport")
	lb, ok := proxy["load_balancing"].(map[string]any)
	if !ok {
		return
	}
	peel(lb, "selection_policy", "policy", "selection_policy")
	if sets, ok := lb["retry_match"].([]any); ok {
		last := len(sets) - 1
		if reflect.DeepEqual(sets[last], map[string]any{"reset_guard": map[string]any{}}) {
			sets = sets[:last]
		}
		if lb["retry_match"] = sets; len(sets) == 0 {
			delete(lb, "retry_match")
		}
	}
	if !keepRetries && lb["retries"] == 5.0 { // four attempts, and two free ones
		delete(lb, "retries")
	}
	if len(lb) == 0 {
		delete(proxy, "load_balancing")
	}
}

// peel replaces a wrapper of ours by what it wraps.
func peel(owner map[string]any, key, kind, inner string) {
	wrapper, ok := owner[key].(map[string]any)
	if !ok || wrapper[kind] != "reset_guard" {
		return
	}
	if owner[key] = wrapper[inner]; wrapper[inner] == nil {
		delete(owner, key)
	}
}
