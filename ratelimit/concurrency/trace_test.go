// SPDX-License-Identifier: Apache-2.0

package concurrency

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	if os.Getenv("TRACE") == "" {
		t.Skip()
	}
	traceHook = func(s *simulation) {
		var tick func()
		tick = func() {
			l := s.guards[0].(*Limiter)
			base := time.Duration(0)
			base = time.Duration(expf(l.knee.base))
			fmt.Printf("%6.2f inflight %4d calm %.2f limit %6.1f inforce %4d base %v engaged %v slope %.2f queue %d probe %v next %.1f answered %d refused %d\n", s.now.Seconds(), l.InFlight(), l.knee.calm.Seconds(), l.knee.limit, l.inForce.Load(), base, l.Engaged(), l.knee.slope.value(), s.gate.queue.length, l.knee.probe.on, l.knee.probe.next.Seconds(), s.answers, s.refusals)
			s.answers, s.refusals = 0, 0
			s.at(s.now+tickEvery, tick)
		}
		s.at(0, tick)
	}
	defer func() { traceHook = nil }()
	s := fastSite
	if os.Getenv("SITE") == "slow" {
		s = slowSite
	}
	mode := Auto
	if os.Getenv("MODE") == "enforce" {
		mode = Enforce
	}
	for _, sc := range scenarios() {
		if sc.name == os.Getenv("TRACE") {
			c := simCase{site: s, phases: sc.phases, guard: ours, seed: simSeed, policy: Policy{Mode: mode, Queue: LongestQueue}}
			judge(t, c.run(), time.Hour)
		}
	}
	if os.Getenv("TRACE") == "bursts" {
		c := simCase{site: s, guard: ours, seed: 2, policy: Policy{Mode: mode, Queue: LongestQueue},
			phases: []phase{{name: "bursts", length: 20 * time.Second, load: 0.7, burst: bursty}}}
		judge(t, c.run(), time.Hour)
	}
	if os.Getenv("TRACE") == "critical" {
		c := simCase{site: s, guard: ours, seed: 3, critical: 0.2,
			policy: Policy{Mode: mode, Queue: LongestQueue, Reserve: true},
			phases: []phase{{name: "3 x", length: stretched(10 * time.Second), load: 3}}}
		judge(t, c.run(), time.Hour)
	}
}

var tickEvery = func() time.Duration {
	d, err := time.ParseDuration(os.Getenv("TICK"))
	if err != nil {
		return 200 * time.Millisecond
	}
	return d
}()
