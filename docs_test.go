// SPDX-License-Identifier: Apache-2.0

// The documentation, held against the code: what it shows works, and nothing
// that the code knows is missing from it.

package resetguard_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// The documents that must be complete.
const (
	configurationDoc = "docs/configuration.md"
	logsDoc          = "docs/logs.md"
	faultinjectDoc   = "docs/faultinject.md"
	dependenciesDoc  = "docs/dependencies.md"
	adminDoc         = "docs/admin.md"
	metricsDoc       = "docs/metrics.md"
	limitsDoc        = "docs/limits.md"
)

// docBlock is a fenced block of a document. The first word of info is its
// language, the second one its kind:
//
//	caddyfile         a whole file
//	caddyfile site    directives of a site
//	caddyfile option  options of reset_guard; "option defaults": all, as they are
//	json              valid JSON
//	json config       a configuration that Caddy accepts
//	json adapted      the same, which the caddyfile before it adapts to
type docBlock struct {
	file string
	line int
	info string
	text string
}

func (b docBlock) name() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// caddyfile makes a whole file of the block.
func (b docBlock) caddyfile() string {
	switch kind := strings.TrimPrefix(b.info, "caddyfile"); strings.TrimSpace(kind) {
	case "site":
		return ":8080 {\n" + b.text + "}\n"
	case "option", "option defaults":
		return ":8080 {\nreset_guard 127.0.0.1:9000 {\n" + b.text + "}\n}\n"
	}
	return b.text
}

// docFiles lists README.md, CHANGELOG.md and all of docs.
func docFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("listing docs: got %d files, %v", len(files), err)
	}
	files = append(files, "README.md", "CHANGELOG.md")
	for i, f := range files {
		files[i] = filepath.ToSlash(f)
	}
	return files
}

func readDoc(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// docBlocks returns the fenced blocks of all documents in the language given;
// all of them if it is empty.
func docBlocks(t *testing.T, language string) []docBlock {
	t.Helper()
	var blocks []docBlock
	for _, file := range docFiles(t) {
		var open *docBlock
		for i, line := range strings.Split(readDoc(t, file), "\n") {
			switch fence, isFence := strings.CutPrefix(line, "```"); {
			case isFence && open == nil:
				open = &docBlock{file: file, line: i + 1, info: fence}
			case isFence:
				if first, _, _ := strings.Cut(open.info, " "); language == "" || first == language {
					blocks = append(blocks, *open)
				}
				open = nil
			case open != nil:
				open.text += line + "\n"
			}
		}
		if open != nil {
			t.Errorf("%s: the block is not closed", open.name())
		}
	}
	return blocks
}

func adaptDoc(text string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func TestDocsCaddyfiles(t *testing.T) {
	for _, b := range docBlocks(t, "caddyfile") {
		t.Run(b.name(), func(t *testing.T) {
			if _, err := adaptDoc(b.caddyfile()); err != nil {
				t.Errorf("adapting: %v\n%s", err, b.text)
			}
			if want := caddyfile.Format([]byte(b.text)); string(want) != b.text {
				t.Errorf("not formatted as by caddy fmt, want\n%s", want)
			}
		})
	}
}

func TestExampleCaddyfile(t *testing.T) {
	if _, err := adaptDoc(readDoc(t, "Caddyfile.example")); err != nil {
		t.Errorf("adapting Caddyfile.example: %v", err)
	}
}

func TestDocsJSON(t *testing.T) {
	var before docBlock
	for _, b := range docBlocks(t, "") {
		kind, isJSON := strings.CutPrefix(b.info, "json")
		if isJSON {
			t.Run(b.name(), func(t *testing.T) { checkJSON(t, b, strings.TrimSpace(kind), before) })
		}
		before = b
	}
}

func checkJSON(t *testing.T, b docBlock, kind string, before docBlock) {
	if !json.Valid([]byte(b.text)) {
		t.Fatalf("not valid JSON:\n%s", b.text)
	}
	if kind == "" {
		return
	}
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(b.text), cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(cfg); err != nil {
		t.Errorf("validating: %v", err)
	}
	if kind != "adapted" {
		return
	}
	adapted, err := adaptDoc(before.caddyfile())
	if err != nil {
		t.Fatalf("adapting %s: %v", before.name(), err)
	}
	if got, want := decodeDoc(t, adapted), decodeDoc(t, []byte(b.text)); !reflect.DeepEqual(got, want) {
		t.Errorf("%s adapts to\n%s", before.name(), adapted)
	}
}

// decodeDoc decodes a configuration with every duration as a number, for both
// ways of writing one are right.
func decodeDoc(t *testing.T, config []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(config, &v); err != nil {
		t.Fatal(err)
	}
	return withoutDurations(v)
}

func withoutDurations(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = withoutDurations(v[k])
		}
	case []any:
		for i := range v {
			v[i] = withoutDurations(v[i])
		}
	case string:
		if d, err := caddy.ParseDuration(v); err == nil {
			return float64(d)
		}
	}
	return v
}

// TestDocsDefaults holds the block that writes out all defaults against the
// code.
func TestDocsDefaults(t *testing.T) {
	blocks := slices.DeleteFunc(docBlocks(t, "caddyfile"), func(b docBlock) bool { return !strings.HasSuffix(b.info, "option defaults") })
	if len(blocks) != 1 {
		t.Fatalf("got %d blocks of defaults, want 1", len(blocks))
	}
	adapted, err := adaptDoc(blocks[0].caddyfile())
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []struct {
							ErrorPage *bool `json:"error_page"`
							Transport struct {
								Failover caddymodule.Failover `json:"failover"`
							} `json:"transport"`
							LoadBalancing struct {
								SelectionPolicy caddymodule.Selection `json:"selection_policy"`
							} `json:"load_balancing"`
						} `json:"handle"`
					} `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &cfg); err != nil {
		t.Fatal(err)
	}
	handle := cfg.Apps.HTTP.Servers["srv0"].Routes[0].Handle
	if page := handle[0].ErrorPage; page == nil || !*page {
		t.Error("error_page: want on")
	}
	f := handle[1].Transport.Failover
	resume, _ := failover.ParseResumeMode(f.Resume)
	got := failover.Policy{
		Resume:          resume,
		Stall:           time.Duration(f.Stall),
		Attempts:        f.Attempts,
		Within:          time.Duration(f.Within),
		ReplayMemory:    f.Replay.Memory,
		ReplayFile:      f.Replay.File,
		HoldBytes:       f.Hold.Size,
		HoldFor:         time.Duration(f.Hold.For),
		IdempotencyKeys: f.IdempotencyKey,
		RetryStatus:     f.RetryStatus,
		Budget:          failover.BudgetPolicy{Share: f.Budget.Share, Count: f.Budget.Count},
	}
	if want := failover.DefaultPolicy(); !reflect.DeepEqual(got, want) {
		t.Errorf("defaults: got %+v, want %+v", got, want)
	}
	e := handle[1].LoadBalancing.SelectionPolicy.Eject
	ejection := health.EjectPolicy{
		Base: time.Duration(e.Base), Max: time.Duration(e.Max), MaxShare: e.MaxShare, SlowStart: time.Duration(e.SlowStart),
	}
	if want := health.DefaultEjectPolicy(); ejection != want {
		t.Errorf("defaults of eject: got %+v, want %+v", ejection, want)
	}
}

// mentions checks that the document has each of the words, set as code. A
// placeholder for the word in format gives what stands around it.
func mentions(t *testing.T, file, format string, words []string) {
	t.Helper()
	if len(words) == 0 {
		t.Errorf("%s: nothing to look for: the test does not understand the code any more", file)
	}
	text := readDoc(t, file)
	for _, w := range words {
		if want := "`" + fmt.Sprintf(format, w) + "`"; !strings.Contains(text, want) {
			t.Errorf("%s does not mention %s", file, want)
		}
	}
}

// TestDocsOptions asks the parsers what they take: they say it when they are
// given something else.
func TestDocsOptions(t *testing.T) {
	for _, tc := range []struct {
		name, file, site, before, after string
	}{
		{"directive", configurationDoc, "reset_guard :1 {\nbogus x\n}", "reset_guard takes ", " and every option"},
		{"failover", configurationDoc, "reset_guard :1 {\nfailover {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"eject", configurationDoc, "reset_guard :1 {\neject {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"overload", configurationDoc, "reset_guard :1 {\noverload {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"rate_limit", configurationDoc, "reset_guard :1 {\nrate_limit {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"network", configurationDoc, "reset_guard_limit {\nnetwork {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"transport", configurationDoc, "reverse_proxy :1 {\ntransport reset_guard {\nbogus x\n}\n}", "allowed are ", ", at "},
		{"fault", faultinjectDoc, "fault none {\nbogus x\n}", "is unknown: use ", ", at "},
		{"fault kinds", faultinjectDoc, "fault bogus", "use one of ", ", at "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := adaptDoc(":8080 {\n" + tc.site + "\n}\n")
			if err == nil {
				t.Fatal("a bogus option was accepted")
			}
			_, list, _ := strings.Cut(err.Error(), tc.before)
			list, _, ok := strings.Cut(list, tc.after)
			if !ok {
				t.Fatalf("error names no options: %v", err)
			}
			mentions(t, tc.file, "%s", regexp.MustCompile(`, | and | or `).Split(list, -1))
		})
	}
}

func TestDocsJSONFields(t *testing.T) {
	for file, modules := range map[string][]any{
		configurationDoc: {
			caddymodule.Handler{},
			caddymodule.Transport{},
			caddymodule.Selection{},
			caddymodule.Failover{},
			caddymodule.Replay{},
			caddymodule.Hold{},
			caddymodule.Budget{},
			caddymodule.Eject{},
			caddymodule.Overload{},
			caddymodule.Priority{},
			caddymodule.Agent{},
			caddymodule.RateLimit{},
			caddymodule.ClientBudget{},
			caddymodule.NetworkBudget{},
			caddymodule.LimitCookie{},
			caddymodule.App{},
			caddymodule.Pressure{},
			caddymodule.Threshold{},
		},
		faultinjectDoc: {faultinject.Handler{}},
	} {
		for _, m := range modules {
			mentions(t, file, "%s", jsonFields(reflect.TypeOf(m)))
		}
	}
}

func jsonFields(typ reflect.Type) []string {
	var names []string
	for field := range typ.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

func TestDocsFaults(t *testing.T) {
	var names []string
	for _, f := range faultinject.Faults() {
		names = append(names, string(f))
	}
	mentions(t, faultinjectDoc, "%s", names)
}

// TestDocsLog reads the code for every word that can stand in a log line.
func TestDocsLog(t *testing.T) {
	mentions(t, logsDoc, "%s", logFields(t, "caddymodule/faultlog.go"))
	mentions(t, logsDoc, "%s", logFields(t, "caddymodule/ratelimit_log.go"))
	mentions(t, logsDoc, "{http.reset_guard.%s}", caseWords(t, "caddymodule/exchange.go", "placeholder"))
	mentions(t, logsDoc, "%s", constantsOf(t, "caddymodule/faultlog.go", "outcome", ""))
	mentions(t, logsDoc, "%s", constantsOf(t, "failover/exchange.go", "", "Action"))
	mentions(t, logsDoc, "%s", constantsOf(t, "failover/exchange.go", "Reason", "Reason"))
	for _, typ := range []string{"Cause", "Phase", "Side"} {
		mentions(t, logsDoc, "%s", constantsOf(t, "health/fault.go", "", typ))
	}
}

// TestDocsAdmin reads the code for every field and path of the admin API.
func TestDocsAdmin(t *testing.T) {
	var fields []string
	for _, file := range []string{"caddymodule/admin.go", "caddymodule/admin_orders.go", "caddymodule/admin_pressure.go", "caddymodule/admin_ratelimit.go"} {
		fields = append(fields, matches(t, file, "`json:\"(\\w+)")...)
	}
	mentions(t, adminDoc, "%s", fields)
	mentions(t, adminDoc, "POST /reset_guard/upstreams/%s", matches(t, "caddymodule/admin_orders.go", `orderKind\{"(\w+)"`))
	mentions(t, adminDoc, "%s", matches(t, "health/transition.go", `"(\w+)"[,}]`))
}

// TestDocsMetrics reads the code for every metric, and every event and its data.
func TestDocsMetrics(t *testing.T) {
	const file = "caddymodule/metrics.go"
	mentions(t, metricsDoc, "reset_guard_%s", matches(t, file, `(?:counter|single)\("(\w+)"|Name: "(\w+)"`))
	mentions(t, metricsDoc, "%s", matches(t, file, `NewDesc\("(\w+)"`))
	mentions(t, metricsDoc, "%s", matches(t, "caddymodule/ratelimit_metrics.go", `NewDesc\("(\w+)"`))
	for c := ratelimit.Unknown; c <= ratelimit.Verified; c++ {
		mentions(t, limitsDoc, "%s", []string{c.String()})
	}
	for l := ratelimit.LevelNone; l <= ratelimit.LevelTotal; l++ {
		mentions(t, limitsDoc, "%s", []string{l.String()})
	}
	for o := ratelimit.Allowed; o <= ratelimit.WouldRefuse; o++ {
		mentions(t, metricsDoc, "%s", []string{o.String()})
	}
	mentions(t, metricsDoc, "%s", constantsOf(t, "caddymodule/healthlog.go", "event", ""))
	mentions(t, metricsDoc, "%s", constantsOf(t, "health/transition.go", "Reason", "Reason"))
	facts := matches(t, "caddymodule/transitionfacts.go", `\{"(\w+)", `)
	mentions(t, metricsDoc, "%s", facts)
	mentions(t, logsDoc, "%s", facts)
}

// matches returns what the groups of the pattern catch in a file.
func matches(t *testing.T, file, pattern string) []string {
	t.Helper()
	var words []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(readDoc(t, file), -1) {
		if w := strings.Join(m[1:], ""); w != "" {
			words = append(words, w)
		}
	}
	return words
}

func parseGo(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// literal returns the string that e is; empty if it is none.
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value)
	return s
}

// logFields returns the names of all fields that the file makes: zap.X("name").
func logFields(t *testing.T, file string) []string {
	t.Helper()
	var names []string
	ast.Inspect(parseGo(t, file), func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "zap" && literal(call.Args[0]) != "" {
			names = append(names, literal(call.Args[0]))
		}
		return true
	})
	return names
}

// caseWords returns the strings of the cases in the function or method named.
func caseWords(t *testing.T, file, function string) []string {
	t.Helper()
	var words []string
	for _, d := range parseGo(t, file).Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != function {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.CaseClause); ok {
				for _, e := range c.List {
					words = append(words, literal(e))
				}
			}
			return true
		})
	}
	return words
}

// constantsOf returns the string constants whose name begins with prefix and
// whose declared type is typ; an empty typ means untyped ones.
func constantsOf(t *testing.T, file, prefix, typ string) []string {
	t.Helper()
	var words []string
	ast.Inspect(parseGo(t, file), func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		declared := ""
		if id, ok := spec.Type.(*ast.Ident); ok {
			declared = id.Name
		}
		if w := literal(spec.Values[0]); w != "" && declared == typ {
			words = append(words, w)
		}
		return true
	})
	return words
}

var (
	docLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	docFence   = regexp.MustCompile("(?ms)^```.*?^```$")
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestDocsLinks follows the links between documents, as GitHub resolves them.
func TestDocsLinks(t *testing.T) {
	for _, file := range docFiles(t) {
		text := docFence.ReplaceAllString(readDoc(t, file), "")
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := file
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(file), path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link %s: %v", file, m[1], err)
			} else if anchor != "" && !slices.Contains(docAnchors(t, target), anchor) {
				t.Errorf("%s: link %s: %s has no such heading", file, m[1], target)
			}
		}
	}
}

func docAnchors(t *testing.T, file string) []string {
	t.Helper()
	var anchors []string
	for _, m := range docHeading.FindAllStringSubmatch(docFence.ReplaceAllString(readDoc(t, file), ""), -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(slug, " ", "-"))
	}
	return anchors
}

// TestDocsDependencies compares the list with go.mod and tools/go.mod, both
// ways.
func TestDocsDependencies(t *testing.T) {
	modules := readDoc(t, "go.mod")
	var direct []string
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(modules, -1) {
		direct = append(direct, m[1])
	}
	mentions(t, dependenciesDoc, "%s", direct)

	known := modules + readDoc(t, "tools/go.mod")
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\S+)` \\|").FindAllStringSubmatch(readDoc(t, dependenciesDoc), -1) {
		if !strings.Contains(known, "\t"+m[1]+" ") {
			t.Errorf("%s names %s, which is not in use", dependenciesDoc, m[1])
		}
	}
	for _, tool := range regexp.MustCompile(`(?m)^\t(\S+)$`).FindAllStringSubmatch(readDoc(t, "tools/go.mod"), -1) {
		if !mentionsModuleOf(readDoc(t, dependenciesDoc), tool[1]) {
			t.Errorf("%s does not mention the tool %s", dependenciesDoc, tool[1])
		}
	}
}

// mentionsModuleOf tells whether the text has, set as code, the package path or
// a module that it may be in.
func mentionsModuleOf(text, path string) bool {
	for path != "" {
		if strings.Contains(text, "`"+path+"`") {
			return true
		}
		path = path[:max(0, strings.LastIndexByte(path, '/'))]
	}
	return false
}

// TestDocsCaddyVersion sees that what is to be built is what is tested.
func TestDocsCaddyVersion(t *testing.T) {
	m := regexp.MustCompile(`github\.com/caddyserver/caddy/v2 (v\S+)`).FindStringSubmatch(readDoc(t, "go.mod"))
	if m == nil {
		t.Fatal("go.mod does not name Caddy's version")
	}
	if want := "caddy_version=" + m[1]; !strings.Contains(readDoc(t, "xcaddy.sh"), want) {
		t.Errorf("xcaddy.sh does not say %s", want)
	}
	for _, file := range docFiles(t) {
		for _, v := range regexp.MustCompile(`xcaddy build (v[\w.]+)`).FindAllStringSubmatch(readDoc(t, file), -1) {
			if v[1] != m[1] {
				t.Errorf("%s builds with Caddy %s, want %s as in go.mod", file, v[1], m[1])
			}
		}
	}
}
