// SPDX-License-Identifier: Apache-2.0

// This file says which requests are sent: the same ones to each proxy, and the
// same ones again for the same seed.

package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

const (
	putSize    = 64 << 10  // bytes of a PUT's body
	postSize   = 1 << 10   // bytes of a POST's body
	answerSize = 8 << 10   // bytes of each answer's body: within what is held by default
	largeSize  = 512 << 10 // bytes of a large one: far more than that
)

// request is one of the sequence.
type request struct {
	method string
	key    bool // carries an Idempotency-Key
	body   []byte
	size   int    // bytes of the answer's body
	sum    string // SHA-256 of body in hex, as origins report it; empty without a body
}

// repeatable tells whether the request may be sent again after an origin may
// have acted on it. Only these can be saved from every fault.
func (q request) repeatable() bool { return q.method != http.MethodPost || q.key }

// traffic makes n requests, of which GETs are answered with getSize bytes. Each ten of them are the mix, in an order of their
// own: so the shares are exact, and a sequence cut short has them as well.
func traffic(seed uint64, n, getSize int) []request {
	// The second word only has to be fixed: it picks one of PCG's streams.
	rng := rand.New(rand.NewPCG(seed, 0x64656d6f))
	ten := mix(getSize)
	requests := make([]request, 0, n+len(ten))
	for len(requests) < n {
		rng.Shuffle(len(ten), func(i, j int) { ten[i], ten[j] = ten[j], ten[i] })
		requests = append(requests, ten...)
	}
	return requests[:n]
}

func mix(getSize int) []request {
	get := request{method: http.MethodGet, size: getSize}
	return []request{
		get, get, get, get, get, get,
		{method: http.MethodHead, size: answerSize},
		withBody(request{method: http.MethodPut}, putSize),
		withBody(request{method: http.MethodPost}, postSize),
		withBody(request{method: http.MethodPost, key: true}, postSize),
	}
}

func withBody(q request, size int) request {
	q.size = answerSize
	q.body = faultinject.Bytes(size)
	sum := sha256.Sum256(q.body)
	q.sum = hex.EncodeToString(sum[:])
	return q
}
