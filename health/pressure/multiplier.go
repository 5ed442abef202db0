// SPDX-License-Identifier: Apache-2.0

// How much of a learned rate limit is left under overload.

package pressure

import "time"

const (
	multiplierStep  = time.Second
	multiplierLeast = 0.1
	multiplierCut   = 0.7  // what is left after a second with overload
	multiplierGain  = 0.02 // what comes back in a second without, at first
	// multiplierQuiet is the time without overload after which the gain has doubled.
	multiplierQuiet = 10 * time.Second
)

// Multiplier is what an adaptive limit is multiplied by, from 0.1 to 1. It falls
// fast while there is overload and rises slowly, then faster, without. Keep one
// for each scope whose overload is judged apart: a client's fault lowers only
// its own. The zero value is 1. It is not safe for concurrent use.
type Multiplier struct {
	missing  float64 // 1 - m, so that the zero value is of use
	evidence bool
	quiet    time.Duration
	at       time.Time
}

// Overloaded notes evidence of overload. It counts once a second.
func (m *Multiplier) Overloaded(now time.Time) {
	m.advance(now)
	m.evidence = true
}

// Value is m now.
func (m *Multiplier) Value(now time.Time) float64 {
	m.advance(now)
	return 1 - m.missing
}

// advance takes the steps that are due: after a long gap some twenty until m is
// 1. A clock that runs backwards does nothing.
func (m *Multiplier) advance(now time.Time) {
	if m.at.IsZero() {
		m.at = now
		return
	}
	for now.Sub(m.at) >= multiplierStep {
		m.at = m.at.Add(multiplierStep)
		if m.step(); m.missing == 0 { // nothing changes any more
			m.at = now
		}
	}
}

func (m *Multiplier) step() {
	if m.evidence {
		m.missing = 1 - max(multiplierLeast, multiplierCut*(1-m.missing))
		m.evidence, m.quiet = false, 0
		return
	}
	m.quiet += multiplierStep
	m.missing = max(0, m.missing-multiplierGain*(1+m.quiet.Seconds()/multiplierQuiet.Seconds()))
}

// Effective is what an adaptive limit becomes by its multiplier m and this
// host's pressure p: a tenth of it remains at p = 1.
func Effective(limit, m, p float64) float64 {
	return limit * max(multiplierLeast, min(1, m)) * (1 - .9*max(0, clamp(p)-.5)*2)
}
