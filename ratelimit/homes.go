// SPDX-License-Identifier: Apache-2.0

// The networks in which an identity is proven, or its claim confirmed: a few at a time.

package ratelimit

import "time"

// maxHomes is how many networks an identity is remembered in: that of its office, of its
// home, and IPv4 and IPv6 of each.
const maxHomes = 4

// home is a network in which an identity is at home.
type home struct {
	network uint32 // a keyed hash, for 24 bytes would be too many
	// since is when it was proven there, and seen when it was there last: seconds of
	// the zone's clock and 1 more. It is proven nowhere where since is 0.
	since, seen uint32
}

type homes [maxHomes]home

// busyHome is how long a home is kept that is in use, whatever else wants its place. Those
// of a key that many networks share would otherwise take one another's place with each
// request, and a credit each time.
const busyHome = 10 * time.Minute

// find is the identity's home of this network; nil if it has none there.
func (h *homes) find(network uint32) *home {
	for i := range h {
		if h[i].since != 0 && h[i].network == network {
			return &h[i]
		}
	}
	return nil
}

// oldest is the place for another home: that which was not used for the longest time.
func (h *homes) oldest() *home {
	best := &h[0]
	for i := range h {
		if h[i].seen < best.seen {
			best = &h[i]
		}
	}
	return best
}

// full tells that all of them are in use.
func (h *homes) full(since time.Duration) bool {
	seen := h.oldest().seen
	return seen != 0 && since-sinceStamp(seen) < busyHome
}

// enter makes a network one of the identity's homes.
func (h *homes) enter(network uint32, since time.Duration) {
	at := h.find(network)
	if at == nil {
		at = h.oldest()
		*at = home{network: network, since: stamp(since)}
	}
	at.seen = stamp(since)
}

func stamp(since time.Duration) uint32      { return uint32(since/time.Second) + 1 }
func sinceStamp(stamp uint32) time.Duration { return time.Duration(stamp-1) * time.Second }

// home is a network as homes keep it.
func (s secret) home(n network) uint32 { return uint32(s.network(n) >> 32) }
