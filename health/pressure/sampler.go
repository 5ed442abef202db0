// SPDX-License-Identifier: Apache-2.0

// The sampler: all sources together.

package pressure

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Interval is how often to sample. Sources that count over a time are read once
// a second whatever it is.
const Interval = 250 * time.Millisecond

// Sampler reads this host's resources. There is one for a process: it outlives
// configurations and needs no policy until one is given to Use. State, Pressure
// and the methods that note events may be called from anywhere at any time.
type Sampler struct {
	state    atomic.Uint64
	each     [resources]atomic.Uint64 // the pressure of each resource
	weights  atomic.Pointer[weights]
	injected atomic.Uint64

	mu      sync.Mutex // guards sampling
	host    *host
	sources []*source
	gauge   gauge
	reading reading
}

// host is what sources share and what tests replace.
type host struct {
	root string // of /proc and /sys
	// fileErrors and portErrors count what ObserveError saw.
	fileErrors, portErrors atomic.Uint64
	listeners              listeners
	// reclaimable is the memory that Go would give back before running out.
	reclaimable float64
	// queued is when an accept queue was last seen to fill.
	queued time.Time
}

// New makes a sampler with the default configuration and looks what sources
// there are. It cannot fail.
func New(now time.Time) *Sampler { return newSampler("/", now) }

func newSampler(root string, now time.Time) *Sampler {
	s := &Sampler{host: &host{root: root}}
	s.sources = append(portableSources(), platformSources()...)
	s.weights.Store(DefaultConfig().weights())
	s.gauge.at = now
	for _, src := range s.sources {
		src.sample(s.host, now)
	}
	return s
}

// Use makes a configuration that is Valid the one to go by from the next sample.
func (s *Sampler) Use(c Config) { s.weights.Store(c.weights()) }

// State is the pressure as of the last sample. It is one atomic load.
func (s *Sampler) State() State { return unpack(s.state.Load()) }

// Pressure is how short one resource was at the last sample.
func (s *Sampler) Pressure(r Resource) float64 {
	if r >= resources {
		return 0
	}
	return math.Float64frombits(s.each[r].Load())
}

// Inject adds a pressure, for tests and game days, from the next sample on. 0
// takes it away.
func (s *Sampler) Inject(p float64) { s.injected.Store(math.Float64bits(clamp(p))) }

// ObserveError notes why accepting, dialling or opening a file failed, if it is
// that this host has run out of something. Other errors, and nil, do nothing.
func (s *Sampler) ObserveError(err error) {
	switch {
	case err == nil:
	case isOutOfFiles(err):
		s.host.fileErrors.Add(1)
	case isOutOfPorts(err):
		s.host.portErrors.Add(1)
	}
}

// Sample reads what is due and tells whether the level changed. It takes about
// a hundred microseconds and does not allocate.
func (s *Sampler) Sample(now time.Time) (Transition, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.sources {
		src.sample(s.host, now)
	}
	s.foldLocked(now)
	t, changed := s.gauge.update(&s.reading, now)
	for r := range s.each {
		s.each[r].Store(math.Float64bits(s.reading.p[r]))
	}
	s.state.Store(s.gauge.State.pack())
	return t, changed
}

func (s *Sampler) foldLocked(now time.Time) {
	w := s.weights.Load()
	s.reading = reading{}
	for _, src := range s.sources {
		src.fold(w, &s.reading, now)
	}
	injected := math.Float64frombits(s.injected.Load())
	s.reading.x[Injected], s.reading.p[Injected] = injected, injected
}

// Reading is a resource as of the last sample.
type Reading struct {
	Resource Resource
	Value    float64 // a share, seconds, or events per second
	Pressure float64
}

// Readings lists the resources that some source tells of.
func (s *Sampler) Readings() []Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Reading
	for _, r := range Resources() {
		if s.toldLocked(r) {
			list = append(list, Reading{r, s.reading.x[r], s.reading.p[r]})
		}
	}
	return list
}

func (s *Sampler) toldLocked(r Resource) bool {
	for _, src := range s.sources {
		for _, f := range src.feeds {
			if f == r && src.err == nil {
				return true
			}
		}
	}
	return r == Injected && s.reading.p[r] > 0
}

// Sources lists all sources, and what is the matter with those that are missing.
func (s *Sampler) Sources() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Status, len(s.sources))
	for i, src := range s.sources {
		list[i] = src.status()
	}
	return list
}

// Close gives back the files that the sampler holds open. It must not be
// sampled any more.
func (s *Sampler) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.sources {
		src.close()
		src.due = time.Unix(1<<40, 0)
	}
}
