// SPDX-License-Identifier: Apache-2.0

// From where on a resource counts as short.

package pressure

import (
	"errors"
	"fmt"
	"math"
)

// Threshold is where a resource's pressure begins and where it is 1. The zero
// value takes the resource out.
type Threshold struct{ Lo, Hi float64 }

// The default thresholds, with where they come from. "HEALTH 5.4" stands for
// choices of this project that have yet to be refuted by a measurement.
var (
	DefaultCPU          = Threshold{.40, .80}   // HEALTH 5.4
	DefaultMemory       = Threshold{.85, .95}   // as Envoy's overload manager: 0.85 to 0.95
	DefaultMemoryLimit  = Threshold{.95, 1}     // automemlimit leaves 10 %: half of it is gone
	DefaultMemoryStall  = Threshold{.10, .40}   // HEALTH 5.4
	DefaultMemoryFull   = Threshold{.02, .10}   // as systemd-oomd's and oomd's order of magnitude
	DefaultIOStall      = Threshold{.30, .70}   // HEALTH 5.4
	DefaultFiles        = Threshold{.75, .92}   // HEALTH 5.4; at 0.9 there is still room to answer
	DefaultConntrack    = Threshold{.80, .95}   // HEALTH 5.4
	DefaultPorts        = Threshold{.70, .90}   // HEALTH 5.4
	DefaultAcceptQueue  = Threshold{.30, .90}   // HEALTH 5.4
	DefaultTCPMemory    = Threshold{.70, .95}   // the kernel saves memory from 0.67, and aborts at 1
	DefaultSchedLatency = Threshold{.005, .050} // seconds; HEALTH 5.4
	DefaultGC           = Threshold{.25, .50}   // Go aims at 0.25, and limits itself to 0.50
	DefaultThrottling   = Threshold{.10, .40}   // HEALTH 5.4
)

// Config is which resources count, and how. It is policy: a Sampler, which
// outlives configurations, takes a new one through Use.
type Config struct {
	// Thresholds by Resource. Those of events and of Injected are not used.
	Thresholds [resources]Threshold
	// Ignore takes resources out, events too.
	Ignore []Resource
}

// DefaultConfig returns what is used unless configured otherwise. IOStall is
// out: it matters only to who holds what clients wait for on a disk.
func DefaultConfig() Config {
	return Config{
		Thresholds: [resources]Threshold{
			CPU: DefaultCPU, Memory: DefaultMemory, MemoryLimit: DefaultMemoryLimit,
			MemoryStall: DefaultMemoryStall, MemoryFull: DefaultMemoryFull, IOStall: DefaultIOStall,
			Files: DefaultFiles, Conntrack: DefaultConntrack, Ports: DefaultPorts,
			AcceptQueue: DefaultAcceptQueue, TCPMemory: DefaultTCPMemory,
			SchedLatency: DefaultSchedLatency, GC: DefaultGC, Throttling: DefaultThrottling,
		},
		Ignore: []Resource{IOStall},
	}
}

// Validate tells every setting that is out of its range.
func (c Config) Validate() error {
	var errs []error
	for r, t := range c.Thresholds {
		if err := t.validate(Resource(r)); err != nil {
			errs = append(errs, err)
		}
	}
	for _, r := range c.Ignore {
		if r == None || r >= resources {
			errs = append(errs, fmt.Errorf("ignoring resource %d: there is none of this number", r))
		}
	}
	return errors.Join(errs...)
}

func (t Threshold) validate(r Resource) error {
	if t == (Threshold{}) {
		return nil
	}
	most := 1.0
	if r == SchedLatency {
		most = 60
	}
	if !(t.Lo >= 0 && t.Lo < t.Hi && t.Hi <= most) { // so that NaN is refused
		return fmt.Errorf("pressure of %s is from %v to %v: allowed is from 0 to %v, the first less than the second", r, t.Lo, t.Hi, most)
	}
	return nil
}

// pressure tells how short a resource of this value is.
func (t Threshold) pressure(x float64) float64 {
	if t == (Threshold{}) {
		return 0
	}
	return clamp((x - t.Lo) / (t.Hi - t.Lo))
}

// clamp keeps a number within 0 and 1; what is no number is 0, since a bug of
// ours is no reason to refuse requests.
func clamp(x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return max(0, min(1, x))
}

// weights are a Config made ready for sampling.
type weights struct {
	thresholds [resources]Threshold
	ignored    [resources]bool
}

func (c Config) weights() *weights {
	w := &weights{thresholds: c.Thresholds}
	for _, r := range c.Ignore {
		w.ignored[r] = true
	}
	return w
}
