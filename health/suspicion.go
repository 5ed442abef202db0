// SPDX-License-Identifier: Apache-2.0

// The second look at an origin that seems to be slow.

package health

import "time"

const (
	// secondLook is how long an origin is watched once it seems to be slow.
	// Slowness shows when an answer ends, not when it begins: what slows all
	// origins down at the same moment shows at one of them first. In a run with two
	// origins whose work took three times as long from one moment on, one of
	// them was ejected after six to eleven answers, in three runs of four.
	secondLook = time.Second
	// suspicionLasts is how long a second look may wait for another slow answer.
	suspicionLasts = 10 * time.Second
)

// suspicion is what there was when an origin began to seem slow. The caller
// guards it.
type suspicion struct {
	since     time.Duration // 0: not suspected
	own, pool tally
}

// confirm is called when the origin seems to be slow. It tells whether it was
// also slower than its peers in all of the time since it seemed so first.
func (s *suspicion) confirm(d *sequential, pool *counters, t time.Duration) bool {
	age := t - s.since
	if s.since > 0 && age >= 0 && age < secondLook {
		return false
	}
	own := d.own.minus(s.own)
	if s.since > 0 && age >= 0 && age < suspicionLasts && worse(own, pool.total().minus(s.pool).minus(own)) {
		return true
	}
	*s = suspicion{max(t, 1), d.own, pool.total()}
	return false
}

// clear ends the suspicion.
func (s *suspicion) clear() { s.since = 0 }
