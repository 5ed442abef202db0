// SPDX-License-Identifier: Apache-2.0

// What is to be done about the pressure, as a value.

package pressure

import "math"

// Level is a step of pressure. Each one includes what the ones before it ask for.
type Level uint8

// The levels. One is entered 0.05 above its number and left 0.05 below it, so
// that a pressure that wavers does not switch things on and off.
const (
	Calm     Level = iota
	Elevated       // 0.3: no hedging, shorter idle timeouts
	High           // 0.5: no budgeted retries, background requests are shed
	Severe         // 0.7: sheddable requests are shed, connections are closed after an answer, no optional work
	Critical       // 0.9: default requests get 503, new connections only to be told so

	levels
)

const hysteresis = 0.05

var (
	enterLevel = [levels]float64{0, .3 + hysteresis, .5 + hysteresis, .7 + hysteresis, .9 + hysteresis}
	leaveLevel = [levels]float64{0, .3 - hysteresis, .5 - hysteresis, .7 - hysteresis, .9 - hysteresis}
)

// String gives the word used in logs, metrics and by the admin API.
func (l Level) String() string {
	if l >= levels {
		return "unknown"
	}
	return [levels]string{"calm", "elevated", "high", "severe", "critical"}[l]
}

// next is the level that follows at pressure p.
func (l Level) next(p float64) Level {
	for l < Critical && p >= enterLevel[l+1] {
		l++
	}
	for l > Calm && p < leaveLevel[l] {
		l--
	}
	return l
}

// State is the pressure and what it asks for. The zero value is no pressure.
type State struct {
	P        float64
	Level    Level
	Resource Resource // what is shortest, or was while P falls
}

// Retry allows attempts that count against the budget.
func (s State) Retry() bool { return s.Level < High }

// KeepAlive allows clients to use their connections for further requests.
func (s State) KeepAlive() bool { return s.Level < Severe }

// Optional allows work that can be left undone: holding and replaying bodies,
// taking in NEL reports.
func (s State) Optional() bool { return s.Level < Severe }

// pack makes a word of a State, so that it can be read at once.
func (s State) pack() uint64 {
	return uint64(math.Float32bits(float32(s.P)))<<32 | uint64(s.Level)<<8 | uint64(s.Resource)
}

func unpack(word uint64) State {
	return State{
		P:        float64(math.Float32frombits(uint32(word >> 32))),
		Level:    Level(word >> 8),
		Resource: Resource(word),
	}
}
