// SPDX-License-Identifier: Apache-2.0

// Load reports of origins.

package pressure

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

var reports = map[string]Report{
	"TEXT cpu_utilization=0.3, mem_utilization=0.8, rps_fractional=10, eps=1, named_metrics.q=-4":                      {CPU: .3, Memory: .8, RPS: 10, EPS: 1},
	"cpu_utilization:0.3,application_utilization : 0.5":                                                                {CPU: .3, Application: .5},
	`JSON {"cpuUtilization":0.3,"memUtilization":"0.8","rpsFractional":1e1,"namedMetrics":{"q":4,"cpuUtilization":9}}`: {CPU: .3, Memory: .8, RPS: 10},
	`{"application_utilization":0.9,"future":1}`:                                                                       {Application: .9},
	`{}`: {},
}

var badReports = []string{
	"", "TEXT", "TEXT cpu_utilization", "TEXT cpu_utilization=", "TEXT =1", "cpu_utilization=NaN", "cpu_utilization=+Inf",
	"cpu_utilization=1e999", "cpu_utilization=-1", "cpu_utilization=.1,cpu_utilization=.1", "x=1,x=2", "x=NaN",
	"BIN AAAA", "JSON", "JSON []", "JSON 1", "JSON {", `{"eps":1}{}`, `{"eps":1} x`, `{"eps":[1]}`, `{"eps":null}`,
	`{"eps":1,"eps":1}`, `{"cpuUtilization":1,"cpu_utilization":1}`, `{"cpuUtilization":"NaN"}`, `{"a":{"b":{"c":1}}}`,
	`{"a":{},"a":{}}`, `{"a":{"x":1,"x":1}}`, "x=" + strings.Repeat("1", maxReport),
}

func TestParseReport(t *testing.T) {
	for text, want := range reports {
		if got, err := ParseReport(text); err != nil || got != want {
			t.Errorf("ok/%s: got %+v %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range badReports {
		if got, err := ParseReport(text); err == nil {
			t.Errorf("bad/%.40s: got %+v, want an error", text, got)
		}
	}
}

func TestReportOf(t *testing.T) {
	for _, c := range []struct {
		header, value string
		ok, failed    bool
	}{
		{"endpoint-load-metrics", "cpu_utilization=0.3", true, false},
		{"endpoint-load-metrics-json", `{"cpuUtilization":0.3}`, true, false},
		{"endpoint-load-metrics-bin", "AAAA", false, false},
		{"endpoint-load-metrics", "BIN AAAA", false, false},
		{"endpoint-load-metrics", "cpu_utilization=NaN", false, true},
		{"other", "x", false, false},
	} {
		h := http.Header{"Content-Type": {"text/html"}}
		h.Set(c.header, c.value)
		r, ok, err := ReportOf(h)
		if ok != c.ok || (err != nil) != c.failed || ok && r.CPU != .3 {
			t.Errorf("%s: %s: got %+v %v %v", c.header, c.value, r, ok, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	for text := range reports {
		f.Add(text)
	}
	for _, text := range badReports {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseReport(text)
		for _, x := range []float64{r.Application, r.CPU, r.Memory, r.RPS, r.EPS} {
			if err == nil && (!(x >= 0) || math.IsInf(x, 0)) {
				t.Errorf("%q: got %+v", text, r)
			}
		}
	})
}

func TestOriginPressure(t *testing.T) {
	o := NewOrigin(begin)
	for _, step := range []struct {
		name   string
		at     time.Duration
		report float64 // < 0: none
		want   float64
	}{
		{"nothing known", 0, -1, 0},
		{"the first report counts in full", 1, .9, .5},
		{"smoothed", 6, 1, (.9 + .1*(1-1/math.E) - .8) / .2},
		{"at the same moment", 6, 0, (.9 + .1*(1-1/math.E) - .8) / .2},
		{"no news", 35, -1, (.9 + .1*(1-1/math.E) - .8) / .2},
		{"expired", 36, -1, 0},
		{"anew", 40, 1, 1},
		{"a clock that runs back", 10, 0, 1},
		{"no number", 41, math.NaN(), 1},
	} {
		now := begin.Add(step.at * time.Second)
		if !(step.report < 0) {
			o.Report(Report{CPU: step.report}, now)
		}
		if got := o.Pressure(now); !near(got, step.want) {
			t.Errorf("%s: got %v, want %v", step.name, got, step.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	o := NewOrigin(begin)
	for _, step := range []struct {
		at, backoff, want time.Duration
	}{
		{0, 0, 0}, {1, 10, 10}, {2, 5, 9}, {3, 3600, 60}, {62, 0, 1}, {63, 0, 0}, {64, -5, 0},
	} {
		now := begin.Add(step.at * time.Second)
		if step.backoff != 0 {
			o.Backoff(step.backoff*time.Second, now)
		}
		if got := o.Waits(now); got != step.want*time.Second {
			t.Errorf("at %d: got %v, want %d s", step.at, got, step.want)
		}
	}
}
