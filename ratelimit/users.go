// SPDX-License-Identifier: Apache-2.0

// How many proven identities use an address: linear counting in 256 bits.

package ratelimit

import (
	"math"
	"math/bits"
	"time"
)

const (
	// userEpoch is how long an identity counts after it was seen, up to twice.
	userEpoch = 5 * time.Minute
	// userBits: the error is 5 % at 256 users and 11 % at 1024.
	userBits = 256
	// leastZeros keeps the estimate finite.
	leastZeros = 4
	// slowUsers is how slowly an address is believed to have more users: under
	// pressure it may only double.
	slowUsers = time.Hour
)

// users estimates how many different identities there were lately. The zero
// value has seen none.
type users struct {
	epoch     int64
	now, last [userBits / 64]uint64
}

// see counts an identity; hash is to be a keyed one.
func (u *users) see(hash uint64) { u.now[hash/64%(userBits/64)] |= 1 << (hash % 64) }

// advance forgets what is too long ago.
func (u *users) advance(epoch int64) {
	switch epoch - u.epoch {
	case 0:
		return
	case 1:
		u.last = u.now
	default:
		u.last = [userBits / 64]uint64{}
	}
	u.now, u.epoch = [userBits / 64]uint64{}, epoch
}

// count is the estimate, 1065 at most.
func (u *users) count() float64 {
	zeros := userBits
	for i := range u.now {
		zeros -= bits.OnesCount64(u.now[i] | u.last[i])
	}
	if zeros == userBits {
		return 0
	}
	return -userBits * math.Log(float64(max(zeros, leastZeros))/userBits)
}
