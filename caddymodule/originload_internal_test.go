// SPDX-License-Identifier: Apache-2.0

// What agents say, by the clock; lots; what a response without a report costs.

package caddymodule

import (
	"errors"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health/pressure"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

func TestAgentLines(t *testing.T) {
	silent := errors.New("connection refused")
	up, down := pressure.AgentState{Running: pressure.Up}, pressure.AgentState{Running: pressure.Down}
	half := pressure.AgentState{Running: pressure.Up, HasWeight: true, Weight: .5}
	t0 := time.Unix(1_700_000_000, 0)
	var w agentWatch
	for _, step := range []struct {
		at      time.Duration
		said    pressure.AgentState
		err     error
		msg     string
		changes int
	}{
		{0, up, nil, "", 0},
		{2 * time.Second, down, nil, "upstream's agent takes it out", 1},
		{4 * time.Second, down, nil, "", 0},
		{6 * time.Second, up, nil, "", 0}, // within a minute
		{8 * time.Second, down, nil, "", 0},
		{70 * time.Second, down, nil, "upstream's agent goes to and fro", 2},
		{72 * time.Second, up, nil, "", 0},
		{140 * time.Second, up, nil, "upstream's agent lets it in", 1},
		{210 * time.Second, half, nil, "upstream's agent changes how much it gets", 1},
		{280 * time.Second, up, silent, "", 0},
		{282 * time.Second, up, silent, "", 0},
		{284 * time.Second, up, silent, "upstream's agent does not answer", 1},
		{286 * time.Second, up, silent, "", 0},
		{350 * time.Second, half, nil, "upstream's agent answers again", 1},
	} {
		line, ok := w.hear(step.said, step.err, t0.Add(step.at))
		msg := ""
		if ok {
			_, msg = line.words()
		}
		if msg != step.msg || line.changes != step.changes {
			t.Errorf("at %v: got %q, %d changes, want %q, %d", step.at, msg, line.changes, step.msg, step.changes)
		}
	}
	if got := w.state(); got != half {
		t.Errorf("got %+v, want what was said before the silence", got)
	}
}

func TestAgentIsForgotten(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	l := newOriginLoad(t0)
	w := &l.agent
	if _, ok := w.watch(t0); !ok || !w.begin(time.Second, t0) {
		t.Fatal("not due at once")
	}
	if _, ok := w.watch(t0); ok || w.begin(time.Second, t0) {
		t.Error("asked twice at the same time")
	}
	w.hear(pressure.AgentState{Service: pressure.Maint, HasMax: true, MaxConns: 1}, nil, t0)
	l.refresh(t0.Add(agentBelieved - 1))
	if w.state().Service != pressure.Maint || l.limiter.Limit() != 1 {
		t.Error("forgotten too early")
	}
	l.refresh(t0.Add(agentBelieved))
	if w.said.Load() != nil || l.limiter.Limit() == 1 {
		t.Error("not forgotten although nobody has it asked")
	}
}

func TestAgentAddress(t *testing.T) {
	for upstream, want := range map[string]string{
		"10.0.0.1:8080": "10.0.0.1:9001", "[::1]:8080": "[::1]:9001", "tcp/app:80": "app:9001",
		"unix//run/app.sock": "", "udp/10.0.0.1:53": "",
	} {
		if got := agentAddr(upstream, "9001"); got != want {
			t.Errorf("%s: got %q, want %q", upstream, got, want)
		}
	}
}

// An origin with a share of 30 % is passed over in 70 % of the choices, however
// often it is asked for in one.
func TestShareOfChoices(t *testing.T) {
	now := time.Now()
	l := newOriginLoad(now)
	l.agent.said.Store(&pressure.AgentState{HasWeight: true, Weight: .3})
	gate := concurrency.NewGate(concurrency.Policy{})
	const n = 20_000
	chosen := 0
	for range n {
		u := usable{gate: gate, now: now}
		first := u.reluctanceOf(l)
		if again := u.reluctanceOf(l); again != first {
			t.Fatal("the lot changes within one choice")
		}
		if first == welcome {
			chosen++
		}
	}
	if share := float64(chosen) / n; math.Abs(share-.3) > .02 {
		t.Errorf("got a share of %.3f, want .3", share)
	}
	if got := (&usable{gate: gate, now: now, sticky: true}).reluctanceOf(l); got != welcome {
		t.Errorf("a bound client is sent elsewhere: %v", got)
	}
}

func TestUnreadReportsAreToldSeldom(t *testing.T) {
	var u unreadReports
	t0 := time.Unix(1_700_000_000, 0)
	for _, step := range []struct {
		at   time.Duration
		want int
	}{{0, 1}, {time.Second, 0}, {unreadEvery - 1, 0}, {unreadEvery, 3}, {unreadEvery + 1, 0}} {
		if got := u.add(t0.Add(step.at)); got != step.want {
			t.Errorf("at %v: got %d, want %d", step.at, got, step.want)
		}
	}
}

func TestResponseWithoutReportDoesNotAllocate(t *testing.T) {
	now := time.Now()
	a := &attempt{load: newOriginLoad(now)}
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}}
	if n := testing.AllocsPerRun(1000, func() { a.takeInLoad(res, now) }); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

func BenchmarkResponseWithoutReport(b *testing.B) {
	now := time.Now()
	a := &attempt{load: newOriginLoad(now)}
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}}
	for b.Loop() {
		a.takeInLoad(res, now)
	}
}

func BenchmarkReluctance(b *testing.B) {
	now := time.Now()
	l := newOriginLoad(now)
	gate := concurrency.NewGate(concurrency.Policy{})
	for b.Loop() {
		u := usable{gate: gate, now: now}
		if u.reluctanceOf(l) != welcome {
			b.Fatal("passed over")
		}
	}
}
