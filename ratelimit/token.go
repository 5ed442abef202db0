// SPDX-License-Identifier: Apache-2.0

// The token: what it says, how it is written, and how it comes to be proven.

package ratelimit

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"
)

// Stage is how far a token has proved itself.
type Stage uint8

const (
	// Given was sent once; whether it comes back is not known.
	Given Stage = iota
	// Kept came back after a while.
	Kept
	// Trusted has proved itself at its network.
	Trusted
)

// Token is what a cookie says: a random number, no more about its owner than
// when it was made. The zero value is no token.
type Token struct {
	ID uint64
	// Issued is when it was written last, First when its ID was made or, since that,
	// proven.
	Issued, First time.Time
	Stage         Stage
	// Home tells that it is used in the network that it was written for. Verify
	// sets it, Mint ignores it.
	Home bool
}

// The token's binary form: version and key 1, id 8, issued 4, first 4, network
// 4, stage 1, reserved 2, MAC 16.
const (
	tokenVersion = 1
	tokenBody    = 24
	tokenMAC     = 16
	tokenBytes   = tokenBody + tokenMAC
	// TokenLength is that of its text, URL-safe base64 without padding.
	TokenLength = (tokenBytes*8 + 5) / 6
	keyIDs      = 1 << 5 // what fits beside the version
)

// Why a token is not accepted. All of them make its owner Unknown.
var (
	// ErrMalformed: it does not look like a token.
	ErrMalformed = errors.New("not a token")
	// ErrUnknownKey: it was signed with a key that is not, or no longer, kept.
	ErrUnknownKey = errors.New("token of an unknown key")
	// ErrForged: its MAC is wrong.
	ErrForged = errors.New("forged token")
	// ErrExpired: it is older than tokens get, or from the future.
	ErrExpired = errors.New("expired token")
)

// rawToken is a token before anything was verified.
type rawToken [tokenBytes]byte

var tokenText = base64.RawURLEncoding.Strict()

// parseToken accepts exactly one text for each token.
func parseToken(text string, raw *rawToken, scratch []byte) error {
	if len(text) != TokenLength {
		return ErrMalformed
	}
	n, err := tokenText.Decode(raw[:], append(scratch[:0], text...))
	if err != nil || n != tokenBytes || raw[0]>>5 != tokenVersion || raw[21] > byte(Trusted) || raw[22]|raw[23] != 0 {
		return ErrMalformed
	}
	return nil
}

func (r *rawToken) key() uint8      { return r[0] % keyIDs }
func (r *rawToken) network() uint32 { return binary.BigEndian.Uint32(r[17:]) }

func (r *rawToken) token() Token {
	return Token{
		ID:     binary.BigEndian.Uint64(r[1:]),
		Issued: time.Unix(int64(binary.BigEndian.Uint32(r[9:])), 0),
		First:  time.Unix(int64(binary.BigEndian.Uint32(r[13:])), 0),
		Stage:  Stage(r[21]),
	}
}

func (r *rawToken) put(t Token, key uint8, network uint32) {
	r[0] = tokenVersion<<5 | key%keyIDs
	binary.BigEndian.PutUint64(r[1:], t.ID)
	binary.BigEndian.PutUint32(r[9:], uint32(t.Issued.Unix()))
	binary.BigEndian.PutUint32(r[13:], uint32(t.First.Unix()))
	binary.BigEndian.PutUint32(r[17:], network)
	r[21], r[22], r[23] = byte(t.Stage), 0, 0
}

const (
	// stageWait is how long a token must be kept for its next stage: who throws
	// cookies away, or makes up a new one each time, never gets there.
	stageWait = 10 * time.Second
	// tenure is from when an identity comes before young ones.
	tenure = time.Hour
	// refreshAfter is when a token in use is written anew, so that it expires
	// only when it is not used; half of its lifetime if that is less.
	refreshAfter = 24 * time.Hour
	// clockSkew is how far instances' clocks may be apart.
	clockSkew = 2 * time.Minute
)

// move is what a token has earned.
type move uint8

const (
	stay    move = iota
	rewrite      // to be written anew; costs nothing
	promote      // to be proven, if there is a credit
	roam         // to be proven here too, if there is a credit for that
)

// next tells what a token that lives for so long has earned by being kept until now, and
// what it becomes by it.
func (t Token) next(lifetime time.Duration, now time.Time) (Token, move) {
	age := now.Sub(t.Issued)
	to := t
	to.Issued = now
	switch {
	case !t.Home && t.Stage == Trusted && t.tenured(now):
		return to, roam
	case !t.Home:
		to.Stage = min(t.Stage, Kept)
		if t.Stage < Trusted {
			to.Stage = Given
		}
		return to, rewrite
	case t.Stage == Trusted && t.worn(lifetime, now):
		return to, rewrite
	case t.Stage == Trusted || age < stageWait:
		return t, stay
	case t.Stage == Given:
		to.Stage = Kept
		return to, rewrite
	}
	// It is known for as long as it has been proven: waiting for that costs nothing.
	to.Stage, to.First = Trusted, now
	return to, promote
}

// worn tells that a token is to be written anew.
func (t Token) worn(lifetime time.Duration, now time.Time) bool {
	return now.Sub(t.Issued) >= min(refreshAfter, lifetime/2)
}

// tenured tells that an identity is not young any more.
func (t Token) tenured(now time.Time) bool { return now.Sub(t.First) >= tenure }
