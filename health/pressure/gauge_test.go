// SPDX-License-Identifier: Apache-2.0

// P over time, the levels, and what they ask for.

package pressure

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var begin = time.Unix(1_700_000_000, 0)

// reads makes a reading of one resource.
func reads(r Resource, p float64) *reading {
	var one reading
	one.p[r], one.x[r] = p, p
	return &one
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestGauge(t *testing.T) {
	g := gauge{at: begin}
	for _, step := range []struct {
		name  string
		at    time.Duration
		in    *reading
		p     float64
		level Level
		cause Resource
	}{
		{"nothing", 0, reads(CPU, 0), 0, Calm, None},
		{"below the band", 1, reads(CPU, .34), .34, Calm, CPU},
		{"rises at once", 2, reads(Files, 1), 1, Critical, Files},
		{"half after five seconds", 7, reads(CPU, 0), .5, High, Files},
		{"a lesser one is not the cause", 7, reads(CPU, .4), .5, High, Files},
		{"within the band below", 8, reads(CPU, .46), .46, High, CPU},
		{"below the band below", 9, reads(CPU, .44), .44, Elevated, CPU},
		{"within the band above", 10, reads(CPU, .54), .54, Elevated, CPU},
		{"above it", 11, reads(CPU, .55), .55, High, CPU},
		{"a clock that runs back", 5, reads(CPU, 0), .55, High, CPU},
		{"long after", 500, reads(CPU, 0), 0, Calm, None},
	} {
		g.update(step.in, begin.Add(step.at*time.Second))
		if !near(g.P, step.p) || g.Level != step.level || g.Resource != step.cause {
			t.Errorf("%s: got %+v, want %v %v %v", step.name, g.State, step.p, step.level, step.cause)
		}
	}
}

func TestTransition(t *testing.T) {
	g := gauge{at: begin}
	got, changed := g.update(reads(Memory, .8), begin)
	if want := (Transition{Calm, Severe, Memory, .8, .8}); !changed || got != want {
		t.Errorf("got %+v %v, want %+v", got, changed, want)
	}
	if got, changed := g.update(reads(Memory, .8), begin); changed {
		t.Errorf("got %+v, want no change", got)
	}
}

// P never exceeds 1, never falls faster than its half-life, and is never below
// the worst resource.
func TestGaugeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, now := gauge{at: begin}, begin
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			before := g.P
			dt := time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond
			p := rapid.Float64Range(0, 1).Draw(t, "p")
			now = now.Add(dt)
			g.update(reads(CPU, p), now)
			left := before * math.Exp2(-dt.Seconds()/5)
			if g.P < p && p > negligible || g.P > max(p, before) || g.P < left-negligible {
				t.Fatalf("P is %v after %v, with %v in %v", g.P, before, p, dt)
			}
			if s := unpack(g.State.pack()); s.Level != g.Level || s.Resource != g.Resource || math.Abs(s.P-g.P) > 1e-6 {
				t.Fatalf("packing %+v gives %+v", g.State, s)
			}
		}
	})
}

func TestActions(t *testing.T) {
	for level, want := range map[Level]struct{ retry, keepAlive, optional bool }{
		Calm:     {true, true, true},
		Elevated: {true, true, true},
		High:     {false, true, true},
		Severe:   {false, false, false},
		Critical: {false, false, false},
	} {
		s := State{Level: level}
		if s.Retry() != want.retry || s.KeepAlive() != want.keepAlive || s.Optional() != want.optional {
			t.Errorf("%v: got %v %v %v, want %+v", level, s.Retry(), s.KeepAlive(), s.Optional(), want)
		}
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Resources() {
		if r.String() == "" || seen[r.String()] {
			t.Errorf("resource %d: got name %q, want one of its own", r, r)
		}
		seen[r.String()] = true
	}
	if got := Resource(99).String() + Level(99).String() + Availability(99).String(); got != "unknownunknownunknown" {
		t.Errorf("got %q for what does not exist", got)
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: got %v", err)
	}
	for name, change := range map[string]func(*Config){
		"turned round":    func(c *Config) { c.Thresholds[Memory] = Threshold{.9, .8} },
		"equal":           func(c *Config) { c.Thresholds[Memory] = Threshold{.9, .9} },
		"negative":        func(c *Config) { c.Thresholds[Files] = Threshold{-.1, .9} },
		"above one":       func(c *Config) { c.Thresholds[Files] = Threshold{.1, 1.9} },
		"no number":       func(c *Config) { c.Thresholds[CPU] = Threshold{math.NaN(), .9} },
		"ignores nothing": func(c *Config) { c.Ignore = []Resource{None} },
		"ignores unknown": func(c *Config) { c.Ignore = []Resource{99} },
	} {
		c := DefaultConfig()
		change(&c)
		if c.Validate() == nil {
			t.Errorf("bad/%s: got no error", name)
		}
	}
}

func TestThreshold(t *testing.T) {
	for _, c := range []struct{ lo, hi, x, want float64 }{
		{.4, .8, .4, 0},
		{.4, .8, .6, .5},
		{.4, .8, 2, 1},
		{.4, .8, math.NaN(), 0},
		{.4, .8, math.Inf(1), 1},
		{0, 0, 1, 0},
	} {
		if got := (Threshold{c.lo, c.hi}).pressure(c.x); !near(got, c.want) {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}
