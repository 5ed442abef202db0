// SPDX-License-Identifier: Apache-2.0

// Writing tokens and verifying them.

package ratelimit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"sync"
	"time"
)

// Signer mints and verifies tokens with the keys of one KeyRing. Methods may be
// called from several goroutines and do not allocate, but for the text that
// Mint returns. Replace the Signer when keys rotate.
type Signer struct {
	lifetime time.Duration
	newest   uint8
	keys     [keyIDs]*signingKey
}

// signingKey is a key with its MAC states, ready for use.
type signingKey struct {
	network [sha256.Size]byte // keys the hashes of networks
	states  sync.Pool
}

// macState is what one computation needs, kept together so that it is allocated
// once: what is passed to a hash.Hash escapes.
type macState struct {
	mac  hash.Hash
	raw  rawToken
	sum  [sha256.Size]byte
	text [TokenLength]byte
	net  [sha256.Size + 17]byte
	site [256]byte
}

// Place is where a token is used.
type Place struct {
	// Addr is the client's.
	Addr netip.Addr
	// Site is the name that the client calls the site by. A token is good for that
	// alone, as its cookie is: what was collected where nobody looks is nothing
	// elsewhere.
	Site string
	// Secure tells of TLS. Who can read a token on a plain connection must not be able
	// to show it as that of a secure one.
	Secure bool
}

// NewSigner prepares a valid ring's keys for tokens that live this long.
func NewSigner(ring KeyRing, lifetime time.Duration) (*Signer, error) {
	if err := ring.Validate(); err != nil {
		return nil, err
	}
	s := &Signer{lifetime: lifetime, newest: ring.Keys[0].ID}
	for _, k := range ring.Keys {
		s.keys[k.ID] = newSigningKey(k.Secret)
	}
	return s, nil
}

// newSigningKey derives two keys of a secret, for tokens and for networks.
func newSigningKey(secret []byte) *signingKey {
	tokens := derive(secret, "reset guard token v1")
	k := &signingKey{network: [sha256.Size]byte(derive(secret, "reset guard network v1"))}
	k.states.New = func() any { return &macState{mac: hmac.New(sha256.New, tokens)} }
	return k
}

func derive(secret []byte, purpose string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

// Verify returns the token that a cookie's value says, and whether it is used
// where it belongs.
func (s *Signer) Verify(value string, at Place, now time.Time) (Token, error) {
	if len(value) != TokenLength {
		return Token{}, ErrMalformed
	}
	state := s.keys[s.newest].states.Get().(*macState)
	err := parseToken(value, &state.raw, state.text[:])
	raw := state.raw
	s.keys[s.newest].states.Put(state)
	if err != nil {
		return Token{}, err
	}
	key := s.keys[raw.key()]
	if key == nil {
		return Token{}, ErrUnknownKey
	}
	return s.check(key, &raw, at, now)
}

func (s *Signer) check(key *signingKey, raw *rawToken, at Place, now time.Time) (Token, error) {
	state := key.states.Get().(*macState)
	defer key.states.Put(state)
	state.raw = *raw
	if !hmac.Equal(state.sign(at)[:tokenMAC], state.raw[tokenBody:]) {
		return Token{}, ErrForged
	}
	t := raw.token()
	if age := now.Sub(t.Issued); age > s.lifetime || age < -clockSkew || t.ID == 0 {
		return Token{}, ErrExpired
	}
	t.Home = state.hashNetwork(&key.network, homeOf(at.Addr)) == raw.network()
	return t, nil
}

// sign computes the MAC of the token in raw, for use at a place.
func (m *macState) sign(at Place) []byte {
	m.mac.Reset()
	m.mac.Write(m.raw[:tokenBody])
	secure := byte(0)
	if at.Secure {
		secure = 1
	}
	m.mac.Write(append(append(m.site[:0], secure), at.Site...))
	return m.mac.Sum(m.sum[:0])
}

// hashNetwork makes of a network what tells nothing about it without the key.
func (m *macState) hashNetwork(key *[sha256.Size]byte, n network) uint32 {
	buf := append(m.net[:0], key[:]...)
	buf = binary.BigEndian.AppendUint64(buf, n.hi)
	buf = append(binary.BigEndian.AppendUint64(buf, n.lo), n.bits)
	sum := sha256.Sum256(buf)
	return binary.BigEndian.Uint32(sum[:])
}

// Mint writes a token for use at this site, in the network of this address.
func (s *Signer) Mint(t Token, at Place) string {
	key := s.keys[s.newest]
	state := key.states.Get().(*macState)
	defer key.states.Put(state)
	state.raw.put(t, s.newest, state.hashNetwork(&key.network, homeOf(at.Addr)))
	copy(state.raw[tokenBody:], state.sign(at)[:tokenMAC])
	tokenText.Encode(state.text[:], state.raw[:])
	return string(state.text[:])
}
