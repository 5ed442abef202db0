// SPDX-License-Identifier: Apache-2.0

// HAProxy's agent-check protocol: what an origin's agent says in one line.

package pressure

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Service is whether an operator wants an origin to be used.
type Service uint8

// What an agent can say about an origin's service.
const (
	Unsaid Service = iota
	Ready
	Drain // no new sessions
	Maint // no requests
)

// Running is whether an origin works.
type Running uint8

// What an agent can say about an origin's running.
const (
	Unknown Running = iota
	Up
	Down
	Fail
	Stopped
)

// String gives the protocol's word; "" if nothing was said.
func (s Service) String() string { return [...]string{"", "ready", "drain", "maint"}[min(s, Maint)] }

// String gives the protocol's word; "" if nothing was said.
func (r Running) String() string {
	return [...]string{"", "up", "down", "fail", "stopped"}[min(r, Stopped)]
}

// AgentState is what an agent has said so far. What a reply does not mention
// stays as it was: only the agent takes back what the agent said.
type AgentState struct {
	Service Service
	Running Running
	Why     string // for Down, Fail and Stopped; "" if not told

	HasWeight bool
	Weight    float64 // share of the configured weight, or the weight if Absolute
	Absolute  bool
	HasMax    bool
	MaxConns  int // 0: no limit, as in HAProxy
}

// Usable tells that the origin may get new requests.
func (s AgentState) Usable() bool {
	return s.Service <= Ready && s.Running <= Up && !(s.HasWeight && s.Weight == 0)
}

// Share is which part of its usual requests the origin is to get, from 0 to 1. A
// weight that is no percentage counts only if it is 0: there is nothing that it
// could be compared with.
func (s AgentState) Share() float64 {
	if !s.HasWeight || s.Absolute && s.Weight > 0 {
		return 1
	}
	return min(s.Weight, 1)
}

const (
	maxAgentLine   = 1024
	maxAgentWhy    = 256
	maxAgentNumber = 1_000_000
)

// ParseAgent takes an agent's line into what it had said before. Words are
// separated by spaces, tabs or commas, and may be in any case. A line with a word
// that is none changes nothing.
func (s AgentState) ParseAgent(line string) (AgentState, error) {
	if i := strings.IndexAny(line, "\r\n\x00"); i >= 0 {
		line = line[:i]
	}
	if len(line) > maxAgentLine {
		return s, fmt.Errorf("agent's reply: longer than %d bytes", maxAgentLine)
	}
	line, why, _ := strings.Cut(line, "#")
	next := s
	for word := range strings.FieldsFuncSeq(line, isAgentSpace) {
		if !next.take(strings.ToLower(word), cleanWhy(why)) {
			return s, fmt.Errorf("agent's reply: %q is not understood", word)
		}
	}
	return next, nil
}

func isAgentSpace(r rune) bool { return r == ' ' || r == '\t' || r == ',' }

// cleanWhy keeps what can be logged of a reason.
func cleanWhy(why string) string {
	why = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, why)
	return strings.TrimSpace(why[:min(len(why), maxAgentWhy)])
}

var (
	serviceWords = map[string]Service{"ready": Ready, "drain": Drain, "maint": Maint}
	runningWords = map[string]Running{"up": Up, "down": Down, "fail": Fail, "stopped": Stopped}
)

// take takes one word; false if it is none.
func (s *AgentState) take(word, why string) bool {
	if service, ok := serviceWords[word]; ok {
		s.Service = service
		return true
	}
	if running, ok := runningWords[word]; ok {
		s.Running, s.Why = running, why
		if running == Up {
			s.Why = ""
		}
		return true
	}
	if number, ok := strings.CutPrefix(word, "maxconn:"); ok {
		return s.takeMax(number)
	}
	number, named := strings.CutPrefix(word, "weight:")
	return s.takeWeight(number, named)
}

func (s *AgentState) takeMax(number string) bool {
	n, ok := agentNumber(number)
	if ok {
		s.HasMax, s.MaxConns = true, n
	}
	return ok
}

// takeWeight takes 75%, weight:75% or weight:75; not 75 alone.
func (s *AgentState) takeWeight(number string, named bool) bool {
	number, percent := strings.CutSuffix(number, "%")
	n, ok := agentNumber(number)
	if !ok || !percent && !named {
		return false
	}
	s.HasWeight, s.Absolute, s.Weight = true, !percent, float64(n)
	if percent {
		s.Weight = math.Min(s.Weight, 10000) / 100
	}
	return true
}

func agentNumber(text string) (int, bool) {
	if text == "" || digits([]byte(text)) != len(text) {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n > maxAgentNumber {
		n = maxAgentNumber
	}
	return n, true
}
