// SPDX-License-Identifier: Apache-2.0

// How P rises and falls.

package pressure

import (
	"math"
	"time"
)

// HalfLife is the time in which P falls by half once nothing is short. It rises
// at once: what is late by a second is late by a whole flash crowd.
const HalfLife = 5 * time.Second

// negligible is where a falling P ends.
const negligible = 0.005

// Transition is a change of Level, to be logged with what caused it.
type Transition struct {
	From, To Level
	Resource Resource
	Value    float64 // of the resource now: a share, seconds, or events per second
	P        float64
}

// gauge is P over time. It is not safe for concurrent use.
type gauge struct {
	State
	at time.Time
}

// reading is each resource's value and its pressure.
type reading struct{ x, p [resources]float64 }

// worst is the resource with the highest pressure; None if there is no pressure.
func (r *reading) worst() Resource {
	worst := None
	for i := range r.p {
		if r.p[i] > r.p[worst] {
			worst = Resource(i)
		}
	}
	return worst
}

// update takes a reading. A resource stays the cause while P falls, until
// another one is above what is left.
func (g *gauge) update(r *reading, now time.Time) (Transition, bool) {
	left := g.P * math.Exp2(-max(0, now.Sub(g.at)).Seconds()/HalfLife.Seconds())
	g.at = now
	worst := r.worst()
	switch p := r.p[worst]; {
	case p > 0 && p >= left:
		g.P, g.Resource = p, worst
	case left < negligible:
		g.P, g.Resource = 0, None
	default:
		g.P = left
	}
	from, cause := g.Level, g.Resource
	g.Level = from.next(g.P)
	return Transition{from, g.Level, cause, r.x[cause], g.P}, g.Level != from
}
