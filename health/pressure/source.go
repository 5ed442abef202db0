// SPDX-License-Identifier: Apache-2.0

// The sources of readings: each may be missing, and may go and come back.

package pressure

import (
	"errors"
	"io/fs"
	"time"
)

// Availability is whether a source can be read.
type Availability uint8

// What a source can be.
const (
	OK Availability = iota
	Unsupported
	Denied
)

// String gives the word used in logs and by the admin API.
func (a Availability) String() string {
	if a > Denied {
		return "unknown"
	}
	return [...]string{"ok", "unsupported", "denied"}[a]
}

// Status is what became of a source.
type Status struct {
	Source       string
	Resources    []Resource
	Availability Availability
	Err          error // why it cannot be read; nil if it can
}

const (
	// slowly is how often sources are read that count over a time.
	slowly = time.Second
	// retryAfter is how long a source that cannot be read is left alone. A
	// module of the kernel may have been loaded meanwhile, or a limit set.
	retryAfter = 5 * time.Minute
	// eventHold is how long an event counts, and eventPressure as what.
	eventHold     = 5 * time.Second
	eventPressure = 0.8
	// perSource is how many resources one source can tell of.
	perSource = 3
)

var (
	errUnsupported = errors.ErrUnsupported
	errNoLimit     = errors.New("no limit is set")
	errNoValue     = errors.New("it does not contain what is asked for")
)

// values are what a source tells, in the order of what it feeds.
type values [perSource]float64

// reader reads a source that could be opened. It sets the values it knows.
type reader interface {
	read(v *values, now time.Time) error
	close()
}

// source is one place where readings come from.
type source struct {
	name  string
	feeds []Resource // at most perSource
	every time.Duration
	open  func(h *host) (reader, error)

	reader reader
	err    error
	due    time.Time
	x      values
	until  [perSource]time.Time // an event's pressure ends
}

// sample reads the source if it is time to. It opens one that is not open.
func (s *source) sample(h *host, now time.Time) {
	if now.Before(s.due) {
		return
	}
	s.due = now.Add(s.every)
	if s.reader == nil {
		s.reader, s.err = s.open(h)
	}
	if s.err == nil {
		s.err = s.reader.read(&s.x, now)
	}
	if s.err != nil {
		s.lose(now)
		return
	}
	for i, x := range s.x {
		if x > 0 { // used for events only
			s.until[i] = now.Add(eventHold)
		}
	}
}

// lose gives a source up for a while: what cannot be read is not short.
func (s *source) lose(now time.Time) {
	s.close()
	s.x, s.due = values{}, now.Add(retryAfter)
}

func (s *source) close() {
	if s.reader != nil {
		s.reader.close()
		s.reader = nil
	}
}

// fold adds to a reading what the source knows. Of several sources of one
// resource the worst counts.
func (s *source) fold(w *weights, into *reading, now time.Time) {
	for i, r := range s.feeds {
		if w.ignored[r] {
			continue
		}
		p := s.pressure(w, i, now)
		if x := s.x[i]; p > into.p[r] || x > into.x[r] {
			into.p[r], into.x[r] = max(p, into.p[r]), max(x, into.x[r])
		}
	}
}

func (s *source) pressure(w *weights, i int, now time.Time) float64 {
	if !s.feeds[i].isEvent() {
		return w.thresholds[s.feeds[i]].pressure(s.x[i])
	}
	if now.Before(s.until[i]) {
		return eventPressure
	}
	return 0
}

func (s *source) status() Status {
	st := Status{Source: s.name, Resources: s.feeds, Err: s.err}
	switch {
	case s.err == nil:
	case errors.Is(s.err, fs.ErrPermission):
		st.Availability = Denied
	default:
		st.Availability = Unsupported
	}
	return st
}
