// SPDX-License-Identifier: Apache-2.0

// Agents' replies, and asking for them.

package pressure

import (
	"context"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

var agentLines = map[string]AgentState{
	"":                    {},
	"up":                  {Running: Up},
	"UP ready\r\n":        {Running: Up, Service: Ready},
	"drain\nmaint":        {Service: Drain},
	"maint":               {Service: Maint},
	"down#no database\n":  {Running: Down, Why: "no database"},
	"fail # a\x01b":       {Running: Fail, Why: "ab"},
	"stopped":             {Running: Stopped},
	"75%":                 {HasWeight: true, Weight: .75},
	"weight:30%,up":       {HasWeight: true, Weight: .3, Running: Up},
	"weight:30\tup":       {HasWeight: true, Weight: 30, Absolute: true, Running: Up},
	"maxconn:40, 100%":    {HasMax: true, MaxConns: 40, HasWeight: true, Weight: 1},
	"maxconn:99999999999": {HasMax: true, MaxConns: maxAgentNumber},
}

var badAgentLines = []string{"75", "maybe", "up maybe", "maxconn:", "maxconn:-1", "weight:", "%", "-1%", strings.Repeat("up ", 1000)}

func TestParseAgent(t *testing.T) {
	for line, want := range agentLines {
		if got, err := (AgentState{}).ParseAgent(line); err != nil || got != want {
			t.Errorf("ok/%q: got %+v %v, want %+v", line, got, err, want)
		}
	}
	before := AgentState{Service: Drain, Running: Down, Why: "x"}
	for _, line := range badAgentLines {
		if got, err := before.ParseAgent(line); err == nil || got != before {
			t.Errorf("bad/%.20q: got %+v %v, want an error and no change", line, got, err)
		}
	}
}

func TestAgentKeepsWhatIsNotSaid(t *testing.T) {
	var s AgentState
	for _, step := range []struct {
		line   string
		usable bool
	}{
		{"up 50%", true}, {"drain", false}, {"maxconn:5", false}, {"ready", true}, {"down#x", false},
		{"ready", false}, {"up", true}, {"0%", false}, {"1%", true}, {"maint", false},
	} {
		var err error
		if s, err = s.ParseAgent(step.line); err != nil || s.Usable() != step.usable {
			t.Errorf("%s: got %+v usable=%v %v", step.line, s, s.Usable(), err)
		}
	}
	if s.MaxConns != 5 || s.Weight != .01 || s.Why != "" {
		t.Errorf("got %+v", s)
	}
}

func FuzzAgent(f *testing.F) {
	for line := range agentLines {
		f.Add(line)
	}
	for _, line := range badAgentLines {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		s, err := (AgentState{}).ParseAgent(line)
		if err != nil && s != (AgentState{}) {
			t.Errorf("got %+v with %v", s, err)
		}
		if !(s.Weight >= 0) || math.IsInf(s.Weight, 0) || s.MaxConns < 0 || len(s.Why) > maxAgentWhy {
			t.Errorf("got %+v", s)
		}
	})
}

func TestAgentShare(t *testing.T) {
	for line, want := range map[string]float64{
		"up": 1, "75%": .75, "weight:75%": .75, "200%": 1, "0%": 0, "weight:75": 1, "weight:0": 0,
	} {
		s, err := AgentState{}.ParseAgent(line)
		if got := s.Share(); got != want || err != nil {
			t.Errorf("%s: got %v %v, want %v", line, got, err, want)
		}
	}
}

func TestAgentWords(t *testing.T) {
	for _, word := range []string{"", "ready", "drain", "maint"} {
		if s, _ := (AgentState{}).ParseAgent(word); s.Service.String() != word {
			t.Errorf("%s: got %s", word, s.Service)
		}
	}
	for _, word := range []string{"", "up", "down", "fail", "stopped"} {
		if s, _ := (AgentState{}).ParseAgent(word); s.Running.String() != word {
			t.Errorf("%s: got %s", word, s.Running)
		}
	}
}

// agent answers one connection.
func agent(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		if c, err := ln.Accept(); err == nil {
			answer(c)
			c.Close()
		}
	}()
	return ln.Addr().String()
}

func TestCheckAgent(t *testing.T) {
	before := AgentState{Service: Drain}
	for name, c := range map[string]struct {
		answer func(net.Conn)
		want   AgentState
		ok     bool
	}{
		"ok/line":         {func(c net.Conn) { io.WriteString(c, "up 75%\n") }, AgentState{Service: Drain, Running: Up, HasWeight: true, Weight: .75}, true},
		"ok/no line end":  {func(c net.Conn) { io.CopyN(io.Discard, c, 6); io.WriteString(c, "ready") }, AgentState{Service: Ready}, true},
		"ok/what is sent": {func(c net.Conn) { io.CopyN(c, c, 6) }, AgentState{Service: Maint}, true},
		"bad/nothing":     {func(net.Conn) {}, before, false},
		"bad/endless":     {func(c net.Conn) { io.WriteString(c, strings.Repeat("up ", 1000)) }, before, false},
		"bad/nonsense":    {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n") }, before, false},
		"bad/silent":      {func(c net.Conn) { io.Copy(io.Discard, c) }, before, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := CheckAgent(ctx, agent(t, c.answer), "maint\n", before)
			if got != c.want || (err == nil) != c.ok {
				t.Errorf("got %+v %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestCheckAgentUnreachable(t *testing.T) {
	before := AgentState{Running: Up}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := CheckAgent(ctx, "127.0.0.1:1", "", before); err == nil || got != before {
		t.Errorf("got %+v %v, want an error and no change", got, err)
	}
}
