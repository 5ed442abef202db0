// SPDX-License-Identifier: Apache-2.0

// The policy of ejection: durations, shares, mistakes.

package health

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestEjectPolicyValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *EjectPolicy)
		want   string // in the error; "" for none
	}{
		{"ok/defaults", func(*EjectPolicy) {}, ""},
		{"ok/no slow start", func(p *EjectPolicy) { p.SlowStart = 0 }, ""},
		{"ok/all may be out", func(p *EjectPolicy) { p.MaxShare = 1 }, ""},
		{"ok/base is max", func(p *EjectPolicy) { p.Max = p.Base }, ""},
		{"bad/no base", func(p *EjectPolicy) { p.Base = 0 }, "base is 0s"},
		{"bad/max below base", func(p *EjectPolicy) { p.Max = time.Second }, "more than max, 1s"},
		{"bad/max too long", func(p *EjectPolicy) { p.Max = 25 * time.Hour }, "max is 25h0m0s"},
		{"bad/no share", func(p *EjectPolicy) { p.MaxShare = 0 }, "max_share is 0:"},
		{"bad/more than all", func(p *EjectPolicy) { p.MaxShare = 1.1 }, "max_share is 1.1: allowed is more than 0, up to 1"},
		{"bad/percent", func(p *EjectPolicy) { p.MaxShare = 50 }, "max_share is 50: allowed is more than 0, up to 1, which is 100%: write 0.5"},
		{"bad/share is no number", func(p *EjectPolicy) { p.MaxShare = math.NaN() }, "max_share is NaN"},
		{"bad/negative slow start", func(p *EjectPolicy) { p.SlowStart = -1 }, "slow_start is -1ns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := DefaultEjectPolicy()
			c.change(&p)
			err := p.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestMaxOut(t *testing.T) {
	for _, c := range []struct {
		share   float64
		n, want int
	}{
		{.5, 0, 0}, {.5, 1, 0}, {.5, 2, 1}, {.5, 3, 1}, {.5, 4, 2}, {.5, 5, 2},
		{.01, 2, 1}, {.29, 100, 29}, {1, 1, 0}, {1, 7, 7},
	} {
		p := EjectPolicy{MaxShare: c.share}
		if got := p.maxOut(c.n); got != c.want {
			t.Errorf("share %v of %d: got %d, want %d", c.share, c.n, got, c.want)
		}
	}
}

func TestEjectionDuration(t *testing.T) {
	p := DefaultEjectPolicy()
	for _, c := range []struct {
		level  int
		random float64
		want   time.Duration
	}{
		{1, 0, 4 * time.Second}, {1, .5, 5 * time.Second}, {1, 1, 6 * time.Second},
		{2, .5, 10 * time.Second}, {4, .5, 40 * time.Second}, {5, .5, time.Minute},
		{maxEjectLevel, 0, 48 * time.Second},
	} {
		if got := p.duration(c.level, c.random); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("level %d, random %v: got %s, want %s", c.level, c.random, got, c.want)
		}
	}
}

func TestWindow(t *testing.T) {
	var w window
	var total tally
	for _, step := range []struct {
		at   time.Duration
		add  int64
		want int64 // in the window, before adding
	}{
		{500 * time.Millisecond, 3, 0},
		{1500 * time.Millisecond, 4, 3},
		{9999 * time.Millisecond, 5, 7},
		{10 * time.Second, 0, 9}, // the first second is over
		{11 * time.Second, 1, 5},
		{9 * time.Second, 1, 6}, // the clock stepped back
		{time.Hour, 2, 0},
		{time.Hour + 500*time.Millisecond, 0, 2},
	} {
		w.advance(step.at, total)
		if got := total.minus(w.start()).all; got != step.want {
			t.Errorf("at %s: got %d, want %d", step.at, got, step.want)
		}
		total.all += step.add
	}
}

func TestSpreadMedian(t *testing.T) {
	for _, want := range []time.Duration{20 * time.Microsecond, time.Millisecond, 33 * time.Millisecond, 700 * time.Millisecond, time.Minute} {
		var s spread
		for i := range 1001 { // from a tenth of it to ten times as much
			s.add(time.Duration(float64(want) * math.Pow(10, float64(i-500)/500)))
		}
		if got := s.median(medianMin); float64((got - want).Abs()) > .13*float64(want) {
			t.Errorf("got %s, want %s, give or take an eighth", got, want)
		}
	}
}

func TestSpreadForgets(t *testing.T) {
	var s spread
	for range medianMin - 1 {
		s.add(time.Millisecond)
	}
	if got := s.median(medianMin); got != 0 {
		t.Errorf("got a median of %s from 19 answers, want none", got)
	}
	for range 200_000 { // more than a counter holds
		s.add(time.Millisecond)
	}
	if _, ok := s.advance(30 * time.Second); !ok {
		t.Fatal("got no median after 30s")
	}
	for range 60_000 {
		s.add(time.Second)
	}
	if got := s.median(medianMin); got < 800*time.Millisecond {
		t.Errorf("got a median of %s after 60000 new ones, want a second", got)
	}
	if got, _ := s.advance(time.Hour); got != 0 {
		t.Errorf("got a median of %s after an hour, want none", got)
	}
}

func TestMiddleLeavesOneOut(t *testing.T) {
	for _, c := range []struct {
		all       []time.Duration
		own, want time.Duration
	}{
		{nil, 5, 0}, {[]time.Duration{5}, 5, 0},
		{[]time.Duration{10, 1000}, 10, 1000}, {[]time.Duration{1000, 10}, 1000, 10},
		{[]time.Duration{30, 10, 20}, 10, 20}, {[]time.Duration{30, 10, 20}, 20, 10}, {[]time.Duration{30, 10, 20}, 30, 10},
		{[]time.Duration{10, 20, 30, 40, 50}, 50, 20}, {[]time.Duration{10, 20, 30, 40, 50}, 20, 30},
		{[]time.Duration{10, 20, 30}, 0, 10},
	} {
		var m middle
		m.set(c.all)
		if got := m.besides(c.own); got != c.want {
			t.Errorf("%v without %v: got %v, want %v", c.all, c.own, got, c.want)
		}
	}
}

// TestFade holds the approximation against exp where it matters.
func TestFade(t *testing.T) {
	for x := 0.0; x <= .5; x += .01 {
		got, want := fade(time.Duration(x*float64(time.Minute)), time.Minute), math.Exp(-x)
		if math.Abs(got-want) > .015*want {
			t.Errorf("at %v: got %v, want %v, give or take 1.5 %%", x, got, want)
		}
	}
	if got := fade(time.Hour, time.Minute); got > .001 {
		t.Errorf("after sixty times the memory: got %v, want next to nothing", got)
	}
}
