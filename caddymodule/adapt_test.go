// SPDX-License-Identifier: Apache-2.0

// What the Caddyfile becomes: for every case of Caddy's own adapter tests that
// has a reverse proxy, the guarded one is the same inside; and golden cases of
// our own.

package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

const goldenSeparator = "----------"

// caddyCases is the folder of Caddy's integration tests. It must be there.
func caddyCases(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatalf("finding Caddy's source: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "caddytest", "integration")
	if _, err := os.Stat(filepath.Join(dir, "caddyfile_adapt")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAdaptCaddysCases(t *testing.T) {
	dir := caddyCases(t)
	plain, guarded := snippets(t, dir, false), snippets(t, dir, true)
	files, err := os.ReadDir(filepath.Join(dir, "caddyfile_adapt"))
	if err != nil {
		t.Fatal(err)
	}
	guards := 0
	for _, f := range files {
		src, want := readCase(t, filepath.Join(dir, "caddyfile_adapt", f.Name()))
		if !strings.Contains(src+want, "reverse_proxy") {
			continue
		}
		t.Run(f.Name(), func(t *testing.T) {
			original, err := adaptIn(t, plain, src)
			checkOriginal(t, original, err, want)
			again, guardErr := adaptIn(t, guarded, asGuarded(t, src))
			if (err == nil) != (guardErr == nil) {
				t.Fatalf("reverse_proxy: error %v; reset_guard: error %v", err, guardErr)
			}
			n, inner := unwrap(t, again)
			guards += n
			if !reflect.DeepEqual(inner, original) {
				t.Errorf("within the guard:\n%s\nwant:\n%s", pretty(t, inner), pretty(t, original))
			}
		})
	}
	if guards < 30 {
		t.Errorf("only %d proxies were guarded in all of Caddy's cases", guards)
	}
}

// checkOriginal makes sure that Caddy's case works here as it does there.
func checkOriginal(t *testing.T, got any, err error, want string) {
	t.Helper()
	if !strings.HasPrefix(want, "{") {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("got error %v, want %s", err, want)
		}
		return
	}
	var config any
	if e := json.Unmarshal([]byte(want), &config); e != nil {
		t.Fatal(e)
	}
	if err != nil || !reflect.DeepEqual(got, config) {
		t.Fatalf("Caddy's own case came out otherwise: error %v, got:\n%s", err, pretty(t, got))
	}
}

// readCase reads a Caddyfile and what is to become of it.
func readCase(t *testing.T, path string) (src, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src, want, ok := strings.Cut(strings.ReplaceAll(string(data), "\r\n", "\n"), goldenSeparator)
	if !ok {
		t.Fatalf("%s: no line %s", path, goldenSeparator)
	}
	return strings.TrimSpace(src) + "\n", strings.TrimSpace(want)
}

// snippets copies the files that the cases import, guarded or not, and returns
// the folder to work in.
func snippets(t *testing.T, dir string, guard bool) string {
	t.Helper()
	work := t.TempDir()
	if err := os.CopyFS(filepath.Join(work, "testdata"), os.DirFS(filepath.Join(dir, "testdata"))); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(work, "testdata", "*.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if guard {
			data = []byte(asGuarded(t, string(data)))
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return work
}

// adaptIn adapts src as if it lay in dir, if that makes a difference: the file's
// name becomes part of some configurations.
func adaptIn(t *testing.T, dir, src string) (any, error) {
	t.Helper()
	options := make(map[string]any)
	if strings.Contains(src, "import testdata/") {
		options["filename"] = filepath.Join(dir, "Caddyfile")
	}
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(src), options)
	if err != nil {
		return nil, err
	}
	var config any
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	return config, nil
}

func pretty(t *testing.T, v any) string {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// routeBlocks are the directives and options whose blocks hold directives.
var routeBlocks = map[string]bool{
	"route": true, "handle": true, "handle_path": true, "handle_errors": true, "handle_response": true, "import": true,
}

// asGuarded changes one word wherever it is a directive.
func asGuarded(t *testing.T, src string) string {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte(src), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(src, "\n")
	var blocks []string // the first word of each line that opened a block around
	first := ""
	for i, tok := range tokens {
		begins := i == 0 || tokens[i-1].Line+tokens[i-1].NumLineBreaks() < tok.Line
		if begins {
			first = tok.Text
		}
		switch {
		case tok.Quoted():
		case tok.Text == "}" && begins && len(blocks) > 0:
			blocks = blocks[:len(blocks)-1]
		case tok.Text == "{" && (i+1 == len(tokens) || tokens[i+1].Line > tok.Line):
			blocks = append(blocks, first)
		case tok.Text == "reverse_proxy" && begins && holdsDirectives(blocks):
			lines[tok.Line-1] = strings.Replace(lines[tok.Line-1], "reverse_proxy", "reset_guard", 1)
		}
	}
	return strings.Join(lines, "\n")
}

func holdsDirectives(blocks []string) bool {
	switch len(blocks) {
	case 0:
		return true // a site without braces
	case 1:
		return blocks[0] != "{" // a site or a snippet, but not the global options
	}
	return routeBlocks[blocks[len(blocks)-1]]
}

// unwrap takes out what the directive has added and counts the guards.
func unwrap(t *testing.T, v any) (int, any) {
	t.Helper()
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			m, inner := unwrap(t, child)
			v[k], n = inner, n+m
		}
	case []any:
		kept := make([]any, 0, len(v))
		for i, child := range v {
			if isHandler(child, "reset_guard") {
				if i+1 == len(v) || !isHandler(v[i+1], "reverse_proxy") {
					t.Fatalf("a guard without a proxy behind it: %s", pretty(t, v))
				}
				unwrapProxy(t, v[i+1].(map[string]any))
				n++
				continue
			}
			m, inner := unwrap(t, child)
			kept, n = append(kept, inner), n+m
		}
		return n, kept
	}
	return n, v
}

func isHandler(v any, name string) bool {
	m, ok := v.(map[string]any)
	return ok && m["handler"] == name
}

// unwrapProxy undoes, step by step, what the guard does to a proxy; each step
// must have been done.
func unwrapProxy(t *testing.T, proxy map[string]any) {
	t.Helper()
	transport := unwrapModule(t, proxy, "transport", "protocol", "transport")
	options, _ := transport["failover"].(map[string]any)
	lb, ok := proxy["load_balancing"].(map[string]any)
	if !ok {
		t.Fatalf("no load_balancing: %s", pretty(t, proxy))
	}
	unwrapModule(t, lb, "selection_policy", "policy", "selection_policy")
	matchers, _ := lb["retry_match"].([]any)
	last := len(matchers) - 1
	if last < 0 || !reflect.DeepEqual(matchers[last], map[string]any{"reset_guard": map[string]any{}}) {
		t.Fatalf("no matcher: %s", pretty(t, lb))
	}
	if lb["retry_match"] = matchers[:last]; last == 0 {
		delete(lb, "retry_match")
	}
	if options["attempts"] == nil { // then the number of retries is the guard's
		if lb["retries"] != 5.0 {
			t.Fatalf("retries: got %v, want 5", lb["retries"])
		}
		delete(lb, "retries")
	}
	if len(lb) == 0 {
		delete(proxy, "load_balancing")
	}
}

// unwrapModule replaces a module of ours by the one within and returns ours.
func unwrapModule(t *testing.T, in map[string]any, key, kind, within string) map[string]any {
	t.Helper()
	outer, ok := in[key].(map[string]any)
	if !ok || outer[kind] != "reset_guard" {
		t.Fatalf("no %s of ours: %s", key, pretty(t, in))
	}
	if inner, ok := outer[within]; ok {
		in[key] = inner
	} else {
		delete(in, key)
	}
	return outer
}

// The golden cases: a Caddyfile, a line of dashes, and the JSON.
func TestAdaptGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".caddyfiletest"), func(t *testing.T) {
			src, want := readCase(t, path)
			got, err := tryAdapt(src)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, got, "", "\t"); err != nil {
				t.Fatal(err)
			}
			if indented.String() != want {
				t.Errorf("got:\n%s\nwant:\n%s", indented.String(), want)
			}
			checkRoundTrip(t, json.RawMessage(got))
			var config caddy.Config
			if err := json.Unmarshal(got, &config); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&config); err != nil {
				t.Errorf("Caddy refuses it: %v", err)
			}
		})
	}
}
