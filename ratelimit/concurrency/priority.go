// SPDX-License-Identifier: Apache-2.0

// Priorities: which requests go first when not all can be answered.

package concurrency

import "time"

// Class is how important a request is. The zero value is Default.
type Class int8

// Classes, from the first to be refused to the last.
const (
	Background Class = iota - 2
	Sheddable
	Default
	Critical
)

const classes = int(Critical-Background) + 1

// index is 0 for the lowest class.
func (c Class) index() int { return int(min(max(c, Background), Critical) - Background) }

// String is the class's name in configurations and logs.
func (c Class) String() string {
	return [classes]string{"background", "sheddable", "default", "critical"}[c.index()]
}

// ParseClass gives the class of a name.
func ParseClass(name string) (c Class, ok bool) {
	for c := Background; c <= Critical; c++ {
		if c.String() == name {
			return c, true
		}
	}
	return Default, false
}

// shedFrom is the pressure from which on a class is shed, and shedSpan how much
// further all of it is. Critical requests never are.
var shedFrom = [classes]float64{0.45, 0.65, 0.85, 2}

const shedSpan = 0.15

// Sheds tells whether a request is refused because of a pressure between 0 and 1.
// client is a hash of who asks: the same client is in or out for an hour, so that
// some users have a whole site rather than all of them a broken one.
func Sheds(class Class, client uint64, pressure float64, now time.Time) bool {
	over := (pressure - shedFrom[class.index()]) / shedSpan
	if over <= 0 {
		return false
	}
	hour := uint64(now.Unix() / 3600)
	return float64(mix(client^mix(hour))>>11)/(1<<53) < over
}

// mix spreads a number over all bits (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
