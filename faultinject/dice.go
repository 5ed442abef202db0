// SPDX-License-Identifier: Apache-2.0

// This file decides, reproducibly, whether a fault strikes.

package faultinject

import (
	"math/rand/v2"
	"sync"
)

// dice casts once per occasion. The sequence of throws follows from the seed
// alone; which request gets which throw follows from their order of arrival.
type dice struct {
	mu          sync.Mutex // guards what follows
	rng         *rand.Rand
	fault       entry
	probability float64
}

func newDice(seed uint64, fault entry, probability float64) *dice {
	// The second word only has to be fixed: it picks one of PCG's streams.
	return &dice{rng: rand.New(rand.NewPCG(seed, 0x6661756c74)), fault: fault, probability: probability}
}

// load changes the fault. The sequence of throws goes on where it was.
func (d *dice) load(fault entry, probability float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.probability = fault, probability
}

// connection casts for a connection that was just accepted.
func (d *dice) connection() entry { return d.cast(true) }

// request casts for a request whose header was just read.
func (d *dice) request() entry { return d.cast(false) }

func (d *dice) cast(perConnection bool) entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault.at == never || d.fault.at == whileListening || d.fault.perConnection() != perConnection {
		return entry{fault: None}
	}
	if d.rng.Float64() >= d.probability {
		return entry{fault: None}
	}
	return d.fault
}
