// SPDX-License-Identifier: Apache-2.0

// The layers: which package may know of which, held against what the Go tool
// says that they import.

package resetguard_test

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/resetguard/caddy-resetguard"

// layers are the packages below caddymodule and which others of ours each of
// them may know, directly or not. Some are yet to come.
var layers = map[string][]string{
	"health":                {},
	"health/pressure":       {},
	"ratelimit":             {},
	"ratelimit/concurrency": {},
	"failover":              {"health"},
	"diagnose":              {"health"},
	"cluster":               {},
	"dashboard":             {},
}

// glue are the packages that may know Caddy, and which others of ours.
var glue = map[string][]string{
	"":                 {"caddymodule", "cluster", "dashboard", "diagnose", "failover", "health", "health/pressure", "ratelimit", "ratelimit/concurrency"},
	"caddymodule":      {"cluster", "dashboard", "diagnose", "failover", "health", "health/pressure", "ratelimit", "ratelimit/concurrency"},
	"faultinject":      {},
	"faultinject/demo": {"caddymodule", "cluster", "dashboard", "diagnose", "failover", "faultinject", "health", "health/pressure", "ratelimit", "ratelimit/concurrency"},
	"bench":            {}, // tests only
}

// onlyGlue are what is not to be known below caddymodule: the modules, with all
// that lies in them.
var onlyGlue = []string{"github.com/caddyserver", "go.uber.org/zap", "github.com/prometheus"}

// dependencies lists packages of ours, by their folders, with all that each of
// them needs to be built, in the build with these flags.
func dependencies(t *testing.T, pattern string, flags ...string) map[string][]string {
	t.Helper()
	args := append([]string{"list", "-f", `{{.ImportPath}} {{join .Deps " "}}`}, flags...)
	out, err := exec.CommandContext(t.Context(), "go", append(args, pattern)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list %s: %v\n%s", pattern, err, exit.Stderr)
	}
	if err != nil {
		t.Fatalf("go list %s: %v", pattern, err)
	}
	deps := make(map[string][]string)
	for line := range bytes.Lines(out) {
		fields := strings.Fields(string(line))
		if folder, ours := folderOf(fields[0]); ours {
			deps[folder] = fields[1:]
		}
	}
	return deps
}

// folderOf tells whether a package is ours, and where it lies.
func folderOf(path string) (folder string, ours bool) {
	if path == modulePath {
		return "", true
	}
	return strings.CutPrefix(path, modulePath+"/")
}

func TestLayers(t *testing.T) {
	found := dependencies(t, "./...")
	for _, folder := range []string{"", "caddymodule", "failover", "health", "diagnose", "faultinject"} {
		if _, ok := found[folder]; !ok {
			t.Fatalf("go list does not find the package in %q: got %v", folder, found)
		}
	}
	for folder, deps := range found {
		allowed, below := layers[folder]
		if !below {
			var known bool
			if allowed, known = glue[folder]; !known {
				t.Errorf("package %s has no place among the layers: say here what it may import", folder)
			}
		}
		for _, dep := range deps {
			if other, ours := folderOf(dep); ours && !slices.Contains(allowed, other) {
				t.Errorf("%s depends on %s: allowed are %q", modulePath+"/"+folder, dep, allowed)
			}
			if below && isIn(dep, onlyGlue) {
				t.Errorf("%s depends on %s: only caddymodule may", modulePath+"/"+folder, dep)
			}
		}
	}
}

// isIn tells whether a package lies in one of the modules.
func isIn(pkg string, modules []string) bool {
	return slices.ContainsFunc(modules, func(m string) bool { return pkg == m || strings.HasPrefix(pkg, m+"/") })
}

// Origins that misbehave are not for production.
func TestFaultInjectionNeedsItsTag(t *testing.T) {
	for name, tc := range map[string]struct {
		flags []string
		want  bool
	}{
		"default build":  {nil, false},
		"with the tag":   {[]string{"-tags", "faultinject"}, true},
		"with other tag": {[]string{"-tags", "nobadger,nomysql,nopgx"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			deps := dependencies(t, ".", tc.flags...)[""]
			if !slices.Contains(deps, modulePath+"/caddymodule") {
				t.Fatalf("the root package does not import caddymodule: %q", deps)
			}
			for _, pkg := range []string{"faultinject", "faultinject/demo"} {
				if got := slices.Contains(deps, modulePath+"/"+pkg); got != tc.want {
					t.Errorf("%s is in the build: got %v, want %v", pkg, got, tc.want)
				}
			}
		})
	}
}
