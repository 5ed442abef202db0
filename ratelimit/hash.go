// SPDX-License-Identifier: Apache-2.0

// Keyed hashes, so that nobody can choose whom to collide with.

package ratelimit

import (
	"encoding/binary"
	"math/bits"
)

// secret keys the hashes of one Zone: two multiplications as in wyhash, whose
// results never leave the process. hash/maphash would do, but cannot be seeded,
// and simulations are to be repeatable.
type secret struct{ a, b uint64 }

func (s secret) sum(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x^s.a, y^s.b)
	hi, lo = bits.Mul64(hi^s.b^0x9e3779b97f4a7c15, lo^s.a)
	return hi ^ lo
}

func (s secret) text(str string) uint64 {
	h := s.sum(uint64(len(str)), 0)
	var chunk [16]byte
	for len(str) > 0 {
		clear(chunk[:])
		n := copy(chunk[:], str)
		str = str[n:]
		h = s.sum(h^binary.LittleEndian.Uint64(chunk[:8]), binary.LittleEndian.Uint64(chunk[8:]))
	}
	return h
}

// identity hashes the name of a user or claim, with what it is a name in.
func (s secret) identity(name, scope, source string) uint64 {
	return s.sum(s.text(name), s.sum(s.text(scope), s.text(source)))
}

func (s secret) network(n network) uint64 { return s.sum(n.hi, n.lo^uint64(n.bits)<<56) }
