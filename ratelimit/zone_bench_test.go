// SPDX-License-Identifier: Apache-2.0

// What a decision costs, and what it leaves on the heap.

package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/time/rate"
)

// addrOf spreads numbers over IPv4 addresses and, beyond them, /64s of IPv6.
func addrOf(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(11 + n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func provenRequest(addr netip.Addr, id uint64, now time.Time) Request {
	return Request{
		Addr: addr, Port: 40000, Look: 7,
		Token: Token{ID: id, Issued: now, First: now.Add(-2 * time.Hour), Stage: Trusted, Home: true},
	}
}

func benchmarkKeys() []int {
	sizes := []int{1, 100_000}
	if os.Getenv("RESET_GUARD_LONG") != "" {
		sizes = append(sizes, 10_000_000)
	}
	return sizes
}

// Each client has an address of its own.
func BenchmarkDecide(b *testing.B) {
	policy := DefaultPolicy()
	for _, kind := range []string{"proven", "unknown"} {
		for _, n := range benchmarkKeys() {
			b.Run(fmt.Sprintf("%s/keys=%d", kind, n), func(b *testing.B) {
				z := NewZone(Size{}, simStart)
				for k := range n { // or the zone's own making would be measured
					r := provenRequest(addrOf(k), uint64(k+1), simStart)
					z.Decide(&policy, &r, 0, simStart)
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					random := rand.New(rand.NewPCG(rand.Uint64(), 1))
					for pb.Next() {
						k := random.IntN(n)
						r := provenRequest(addrOf(k), uint64(k+1), simStart)
						if kind == "unknown" {
							r.Token = Token{}
						}
						z.Decide(&policy, &r, 0, time.Now())
					}
				})
			})
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	s := testSigner(b)
	addr := addrOf(1)
	good := s.Mint(Token{ID: 1, Issued: simStart, First: simStart}, Place{Addr: addr})
	forged := []byte(good)
	forged[TokenLength-3] ^= 2
	for name, text := range map[string]string{"good": good, "forged": string(forged)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.Verify(text, Place{Addr: addr}, simStart)
			}
		})
	}
}

func testSigner(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner(KeyRing{}.Rotate([32]byte{1}, simStart), DefaultCookieLifetime)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDecideDoesNotAllocate(t *testing.T) {
	for name, policy := range map[string]Policy{"auto": AutoPolicy(), "block": DefaultPolicy()} {
		z := NewZone(Size{}, simStart)
		r := provenRequest(addrOf(1), 9, simStart)
		unknown := Request{Addr: addrOf(2), User: ""}
		user := Request{Addr: addrOf(3), User: "somebody with a long name", Scope: "www.example.com", Source: "{http.auth.user.id}"}
		claim := Request{Addr: addrOf(4), Claim: "a key that is long", Scope: "www.example.com", Source: "{http.request.header.X-Api-Key}"}
		if n := testing.AllocsPerRun(1000, func() {
			z.Decide(&policy, &r, 0, simStart)
			z.Decide(&policy, &unknown, 0, simStart)
			z.Decide(&policy, &user, 0, simStart)
			z.Confirm(&policy, &claim, z.Decide(&policy, &claim, 0, simStart), 0, simStart)
		}); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}

func TestVerifyDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	s, addr := testSigner(t), addrOf(1)
	line := []string{"a=b; __Host-rg=" + s.Mint(Token{ID: 1, Issued: simStart, First: simStart}, Place{Addr: addr, Site: "www.example.com"}) + "; c=d"}
	if n := testing.AllocsPerRun(1000, func() {
		if tok, err := s.Find(line, CookieName, Place{Addr: addr, Site: "www.example.com"}, simStart); tok.ID != 1 || err != nil {
			t.Fatalf("got %+v, %v", tok, err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// What is offered does not change how much is remembered.
func TestManyKeysLeaveTheHeapAsItIs(t *testing.T) {
	keys := 300_000
	if os.Getenv("RESET_GUARD_LONG") != "" {
		keys = 20_000_000
	}
	z, policy := NewZone(Size{Identities: 1 << 12, Addresses: 1 << 12, Sites: 1 << 10, Bins: 1 << 12}, simStart), DefaultPolicy()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	offer := func(i int) {
		r := provenRequest(addrOf(i), uint64(i+1), simStart)
		if i%2 == 0 {
			r.Token = Token{}
		}
		z.Decide(&policy, &r, 0, simStart.Add(time.Duration(i)*10*time.Microsecond))
	}
	for i := range 200_000 { // every set is in use then
		offer(i)
	}
	before := heap()
	for i := range keys {
		offer(i)
	}
	if grown := heap() - before; grown > 200_000 {
		t.Errorf("%d keys: the heap grew by %d bytes", keys, grown)
	}
	runtime.KeepAlive(z)
}

func TestSlotSizes(t *testing.T) {
	for _, s := range []struct {
		what      string
		got, most uintptr
	}{
		{"rate.Limiter", unsafe.Sizeof(rate.Limiter{}), 80},
		{"identity", unsafe.Sizeof(slot[identityKey, identity]{}), 168},
		{"address", unsafe.Sizeof(slot[network, leaf]{}), 784},
		{"site", unsafe.Sizeof(slot[network, site]{}), 304},
		{"bin", unsafe.Sizeof(bin{}), 88},
	} {
		t.Logf("%s: %d bytes", s.what, s.got)
		if s.got > s.most {
			t.Errorf("%s: got %d bytes, want at most %d", s.what, s.got, s.most)
		}
	}
}
