// SPDX-License-Identifier: Apache-2.0

// Addresses and the networks around them.

package ratelimit

import (
	"encoding/binary"
	"net/netip"
)

// network is an IPv6 prefix, or an IPv4 one in its mapped form: comparable,
// and without the pointers of netip.Prefix.
type network struct {
	hi, lo uint64
	bits   uint8
}

func networkOf(addr netip.Addr, bits uint8) network {
	raw := addr.As16()
	n := network{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:]), bits}
	if bits < 64 {
		n.hi &^= 1<<(64-bits) - 1
	}
	n.lo &^= 1<<(128-max(bits, 64)) - 1
	return n
}

// prefix is the network as people write it.
func (n network) prefix() netip.Prefix {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], n.hi)
	binary.BigEndian.PutUint64(raw[8:], n.lo)
	addr := netip.AddrFrom16(raw)
	if addr.Is4In6() && n.bits >= 96 {
		return netip.PrefixFrom(addr.Unmap(), int(n.bits)-96)
	}
	return netip.PrefixFrom(addr, int(n.bits))
}

// isV4 tells an IPv4 address, mapped or not.
func isV4(addr netip.Addr) bool { return addr.Is4() || addr.Is4In6() }

// leafOf is what counts as one address: an IPv4 address, or the /64 that any
// host of IPv6 may use all of.
func leafOf(addr netip.Addr) network {
	if isV4(addr) {
		return networkOf(addr, 128)
	}
	return networkOf(addr, 64)
}

// sites are the networks around an address, the narrowest first: the /24 of
// IPv4; the /56 and /48 of IPv6, either of which one customer may have.
type sites struct {
	net  [2]network
	size [2]siteSize
	n    int
}

func sitesOf(addr netip.Addr) sites {
	if isV4(addr) {
		return sites{[2]network{networkOf(addr, 96+24)}, [2]siteSize{size24}, 1}
	}
	return sites{[2]network{networkOf(addr, 56), networkOf(addr, 48)}, [2]siteSize{size56, size48}, 2}
}

// siteSize is what a site may use, in addresses, and how many times an address's
// credits it has.
type siteSize struct{ pools, promotions float64 }

// Carriers' pools lie in one /24, while one customer of IPv6 has a /56 or a /48. One
// /56 must not use up what its whole /48 has.
var (
	size24 = siteSize{pools: 8, promotions: 4}
	size48 = siteSize{pools: 2, promotions: 4}
	size56 = siteSize{pools: 1, promotions: 2}
)

// homeOf is the network that a token is bound to: the /24 or /48, for carriers
// and mobile hosts change addresses inside it.
func homeOf(addr netip.Addr) network {
	if isV4(addr) {
		return networkOf(addr, 96+24)
	}
	return networkOf(addr, 48)
}
