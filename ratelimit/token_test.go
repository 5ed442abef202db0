// SPDX-License-Identifier: Apache-2.0

// Tokens: what is accepted, what is not, and how they come to be proven.

package ratelimit

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTokenProvesItselfByContinuity(t *testing.T) {
	given := func(s Stage, age, known time.Duration, home bool) Token {
		return Token{ID: 1, Issued: simStart.Add(-age), First: simStart.Add(-known), Stage: s, Home: home}
	}
	for _, tc := range []struct {
		name  string
		token Token
		stage Stage
		move  move
	}{
		{"just given", given(Given, 9*time.Second, 9*time.Second, true), Given, stay},
		{"given long enough ago", given(Given, 10*time.Second, 10*time.Second, true), Kept, rewrite},
		{"just kept", given(Kept, 9*time.Second, time.Minute, true), Kept, stay},
		{"kept long enough", given(Kept, 10*time.Second, time.Minute, true), Trusted, promote},
		{"trusted", given(Trusted, time.Hour, time.Hour, true), Trusted, stay},
		{"trusted for a day", given(Trusted, 24*time.Hour, 48*time.Hour, true), Trusted, rewrite},
		{"given elsewhere", given(Given, time.Minute, time.Minute, false), Given, rewrite},
		{"kept elsewhere", given(Kept, time.Minute, time.Minute, false), Given, rewrite},
		{"young and trusted elsewhere", given(Trusted, time.Minute, 59*time.Minute, false), Kept, rewrite},
		{"trusted elsewhere", given(Trusted, time.Minute, time.Hour, false), Trusted, roam},
	} {
		got, earned := tc.token.next(DefaultCookieLifetime, simStart)
		if got.Stage != tc.stage || earned != tc.move {
			t.Errorf("%s: got stage %d, move %d, want %d, %d", tc.name, got.Stage, earned, tc.stage, tc.move)
		}
		first := tc.token.First
		if tc.move == promote {
			first = simStart
		}
		if got.First != first || got.ID != tc.token.ID {
			t.Errorf("%s: got another identity", tc.name)
		}
	}
}

func TestVerify(t *testing.T) {
	s, addr := testSigner(t), netip.MustParseAddr("192.0.2.1")
	tok := Token{ID: 1 << 63, Issued: simStart, First: simStart.Add(-time.Hour), Stage: Kept}
	text := s.Mint(tok, Place{Addr: addr, Site: "here.test"})
	if len(text) != TokenLength {
		t.Fatalf("got %d characters, want %d", len(text), TokenLength)
	}
	other, _ := NewSigner(KeyRing{}.Rotate([32]byte{2}, simStart), DefaultCookieLifetime)
	for _, tc := range []struct {
		name, text, addr string
		after            time.Duration
		home             bool
		err              error
	}{
		{"ok/same address", text, "192.0.2.1", 0, true, nil},
		{"ok/same /24", text, "192.0.2.200", 0, true, nil},
		{"ok/mapped", text, "::ffff:192.0.2.9", 0, true, nil},
		{"ok/elsewhere", text, "192.0.3.1", 0, false, nil},
		{"ok/IPv6", text, "2001:db8::1", 0, false, nil},
		{"ok/clocks apart", text, "192.0.2.1", -time.Minute, true, nil},
		{"bad/from the future", text, "192.0.2.1", -time.Hour, false, ErrExpired},
		{"bad/too old", text, "192.0.2.1", DefaultCookieLifetime + time.Second, false, ErrExpired},
		{"bad/empty", "", "192.0.2.1", 0, false, ErrMalformed},
		{"bad/short", text[1:], "192.0.2.1", 0, false, ErrMalformed},
		{"bad/64 KiB", strings.Repeat("A", 64<<10), "192.0.2.1", 0, false, ErrMalformed},
		{"bad/alphabet", "!" + text[1:], "192.0.2.1", 0, false, ErrMalformed},
		{"bad/another site's", s.Mint(tok, Place{Addr: addr, Site: "there.test"}), "192.0.2.1", 0, false, ErrForged},
		{"bad/another's key", other.Mint(tok, Place{Addr: addr, Site: "here.test"}), "192.0.2.1", 0, false, ErrForged},
	} {
		got, err := s.Verify(tc.text, Place{Addr: netip.MustParseAddr(tc.addr), Site: "here.test"}, simStart.Add(tc.after))
		if !errors.Is(err, tc.err) || got.Home != tc.home || (err == nil) != (got.ID == tok.ID) {
			t.Errorf("%s: got %+v, %v, want home %v, %v", tc.name, got, err, tc.home, tc.err)
		}
	}
}

// A token of a plain connection is none of a secure one, nor the other way round.
func TestTokensOfPlainConnectionsStayThere(t *testing.T) {
	s := testSigner(t)
	plain := Place{Addr: addrOf(1), Site: "here.test"}
	secure := plain
	secure.Secure = true
	tok := Token{ID: 5, Issued: simStart, First: simStart}
	for _, tc := range []struct {
		name       string
		mint, show Place
		err        error
	}{
		{"ok/plain", plain, plain, nil},
		{"ok/secure", secure, secure, nil},
		{"bad/read on a plain connection", plain, secure, ErrForged},
		{"bad/shown on a plain one", secure, plain, ErrForged},
	} {
		if _, err := s.Verify(s.Mint(tok, tc.mint), tc.show, simStart); !errors.Is(err, tc.err) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.err)
		}
	}
}

// No change of a single bit is accepted.
func TestVerifyRefusesEveryFlippedBit(t *testing.T) {
	s, addr := testSigner(t), addrOf(1)
	good := s.Mint(Token{ID: 77, Issued: simStart, First: simStart}, Place{Addr: addr})
	var raw rawToken
	if err := parseToken(good, &raw, nil); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * tokenBytes {
		bad := raw
		bad[bit/8] ^= 1 << (bit % 8)
		if tok, err := s.Verify(tokenText.EncodeToString(bad[:]), Place{Addr: addr}, simStart); err == nil {
			t.Errorf("bit %d: accepted as %+v", bit, tok)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	var ring KeyRing
	if !ring.Due(simStart) {
		t.Error("an empty ring is not due")
	}
	addr := addrOf(1)
	var texts []string
	for day := range 40 {
		now := simStart.Add(time.Duration(day) * KeyLifetime)
		ring = ring.Rotate([32]byte{byte(day)}, now)
		if err := ring.Validate(); err != nil || ring.Due(now) || !ring.Due(now.Add(KeyLifetime)) {
			t.Fatalf("day %d: %v, %+v", day, err, ring)
		}
		s, err := NewSigner(ring, DefaultCookieLifetime)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, s.Mint(Token{ID: 5, Issued: now, First: now}, Place{Addr: addr}))
		for age := range min(day, 12) + 1 {
			_, err := s.Verify(texts[day-age], Place{Addr: addr}, now)
			if ok := err == nil; ok != (age <= 7) {
				t.Errorf("day %d, token %d days old: got %v", day, age, err)
			}
		}
	}
}

// A key that was made while the clock was far ahead does not sign for ever, and verifies for
// as long as any.
func TestKeysFromTheFuture(t *testing.T) {
	for ahead, due := range map[time.Duration]bool{
		clockSkew: false, time.Hour: false, KeyLifetime: false, KeyLifetime + time.Second: true, 10 * 365 * 24 * time.Hour: true,
	} {
		ring := KeyRing{}.Rotate([SecretBytes]byte{1}, simStart.Add(ahead))
		if got := ring.Due(simStart); got != due {
			t.Errorf("%v ahead: due %v, want %v", ahead, got, due)
		}
		if ring.Due(time.Unix(0, 0)) {
			t.Errorf("%v ahead: due to a host whose clock was never set", ahead)
		}
		for day, now := 0, simStart; day <= 9; day, now = day+1, now.Add(KeyLifetime) {
			ring = ring.Rotate([SecretBytes]byte{byte(2 + day)}, now)
			if err := ring.Validate(); err != nil || ring.Due(now) || !ring.Due(now.Add(KeyLifetime)) {
				t.Fatalf("%v ahead, day %d: %v, %+v", ahead, day, err, ring)
			}
			if kept := ring.Keys[len(ring.Keys)-1].ID == 0; kept != (day < maxKeys-1) {
				t.Errorf("%v ahead, day %d: the key is kept: %v", ahead, day, kept)
			}
		}
	}
}

func TestKeyRingSurvivesStorage(t *testing.T) {
	ring := KeyRing{}.Rotate([32]byte{1}, simStart).Rotate([32]byte{2}, simStart.Add(KeyLifetime))
	data, err := json.Marshal(ring)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKeyRing(data)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := NewSigner(ring, DefaultCookieLifetime)
	b, _ := NewSigner(again, DefaultCookieLifetime)
	text := a.Mint(Token{ID: 5, Issued: simStart, First: simStart}, Place{Addr: addrOf(1)})
	if got, err := b.Verify(text, Place{Addr: addrOf(1)}, simStart); err != nil || !got.Home {
		t.Errorf("another instance: got %+v, %v", got, err)
	}
}

func TestKeyRingRefuses(t *testing.T) {
	for name, data := range map[string]string{
		"empty":      `{}`,
		"not JSON":   `{"keys":`,
		"short":      `{"keys":[{"id":1,"secret":"AAAA"}]}`,
		"high id":    `{"keys":[{"id":32,"secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`,
		"twice":      `{"keys":[{"id":1,"secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},{"id":1,"secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`,
		"oldest 1st": `{"keys":[{"id":1,"secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},{"id":2,"created":"2026-01-01T00:00:00Z","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`,
	} {
		if _, err := ParseKeyRing([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseKeyRing(f *testing.F) {
	f.Add([]byte(`{"keys":[{"id":1,"created":"2026-01-01T00:00:00Z","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := ParseKeyRing(data)
		if err != nil {
			return
		}
		if _, err := NewSigner(ring, time.Hour); err != nil {
			t.Errorf("parsed, but not fit for signing: %v", err)
		}
	})
}

// What is accepted is exactly what was minted.
func FuzzVerify(f *testing.F) {
	s, addr := testSigner(f), addrOf(1)
	good := s.Mint(Token{ID: 9, Issued: simStart, First: simStart}, Place{Addr: addr})
	f.Add(good)
	f.Add(strings.Repeat("A", TokenLength))
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.Verify(text, Place{Addr: addr}, simStart); err == nil && text != good {
			t.Errorf("accepted %q", text)
		}
	})
}
