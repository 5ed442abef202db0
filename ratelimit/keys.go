// SPDX-License-Identifier: Apache-2.0

// The keys that sign tokens, as data: all instances that share them, share
// identities.

package ratelimit

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// KeyLifetime is how long a key signs; after that it only verifies, for as long
// as any token lives that it signed.
const KeyLifetime = 24 * time.Hour

// maxKeys is one that signs and those of seven days before it, and one more so
// that a token which was signed last by a key lives as long as others.
const maxKeys = 9

// Key signs tokens.
type Key struct {
	ID      uint8     `json:"id"`
	Created time.Time `json:"created"`
	Secret  []byte    `json:"secret"`
}

// SecretBytes is the length of a key's secret.
const SecretBytes = 32

// KeyRing is a set of keys, the newest first, which signs. The zero value is
// empty. A KeyRing is never changed: Rotate makes another one.
type KeyRing struct {
	Keys []Key `json:"keys"`
}

// ParseKeyRing reads what json.Marshal made of a KeyRing.
func ParseKeyRing(data []byte) (KeyRing, error) {
	var r KeyRing
	if err := json.Unmarshal(data, &r); err != nil {
		return KeyRing{}, fmt.Errorf("parsing keys: %w", err)
	}
	return r, r.Validate()
}

// Validate tells what is wrong with a ring that is not empty.
func (r KeyRing) Validate() error {
	if len(r.Keys) == 0 || len(r.Keys) > maxKeys {
		return fmt.Errorf("there are %d keys: 1 to %d are needed", len(r.Keys), maxKeys)
	}
	seen := [keyIDs]bool{}
	for i, k := range r.Keys {
		switch {
		case k.ID >= keyIDs || seen[k.ID]:
			return fmt.Errorf("key %d has the number %d, which is too high or not the only one", i, k.ID)
		case len(k.Secret) != SecretBytes:
			return fmt.Errorf("key %d has a secret of %d bytes: %d are needed", i, len(k.Secret), SecretBytes)
		case i > 0 && k.Created.After(r.Keys[i-1].Created):
			return errors.New("the keys are not ordered, the newest first")
		}
		seen[k.ID] = true
	}
	return nil
}

// clockSet is before any time at which this runs: a clock that shows less was never set.
var clockSet = time.Unix(1_600_000_000, 0)

// Due tells that it is time to rotate. A key from the future, of a clock that was wrong,
// would sign until then; instances whose clocks are a little apart must not rotate for one
// another, nor one whose clock was never set for the others.
func (r KeyRing) Due(now time.Time) bool {
	if len(r.Keys) == 0 {
		return true
	}
	age := now.Sub(r.Keys[0].Created)
	return age >= KeyLifetime || age < -KeyLifetime && now.After(clockSet)
}

// Rotate returns a ring with one new key more, which signs, and without those
// of which no token is valid any more. The secret is to be random.
func (r KeyRing) Rotate(secret [SecretBytes]byte, now time.Time) KeyRing {
	key := Key{Created: now, Secret: secret[:]}
	if len(r.Keys) > 0 {
		key.ID = (r.Keys[0].ID + 1) % keyIDs
	}
	keys := []Key{key}
	for _, k := range r.Keys {
		if k.Created.After(now) {
			k.Created = now // it goes as if it had been made now
		}
		if len(keys) < maxKeys && now.Sub(k.Created) < KeyLifetime+MaxCookieLifetime+clockSkew {
			keys = append(keys, k)
		}
	}
	return KeyRing{Keys: keys}
}
