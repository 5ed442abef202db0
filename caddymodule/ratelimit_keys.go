// SPDX-License-Identifier: Apache-2.0

// The keys that sign cookies, in Caddy's storage, so that restarts and several
// instances agree on who is who.

package caddymodule

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// keyStorage is what is needed of Caddy's storage.
type keyStorage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
}

// keyStore is storage that is asked once at a time: one that never answers would
// collect a goroutine with each try.
type keyStore struct {
	keyStorage
	asked atomic.Bool
}

var errStillAsked = errors.New("storage has not answered the last time")

const (
	keysPath = "reset_guard/cookie_keys.json"
	keysLock = "reset_guard_cookie_keys"
	// keysPatience is how long storage may take. No request waits for it.
	keysPatience = 10 * time.Second
	// keysEvery is how often keys of other instances are looked for, and keysRetry
	// how often storage is tried that failed.
	keysEvery, keysRetry = 10 * time.Minute, time.Minute
	// keysRefresh is the least time between two looks that requests ask for:
	// whoever makes up keys must not make work.
	keysRefresh = 10 * time.Second
)

// cookieKeys are the keys of this process. As long as storage was not asked for
// the first time there are none, and nobody gets a cookie.
type cookieKeys struct {
	ring  atomic.Pointer[ratelimit.KeyRing]
	asked chan struct{} // somebody showed a key that is not known
	first chan struct{} // closed when there are keys
	once  sync.Once
	// logger is that of the running configuration; nil before there is one.
	logger atomic.Pointer[zap.Logger]
}

func newCookieKeys() *cookieKeys {
	return &cookieKeys{asked: make(chan struct{}, 1), first: make(chan struct{})}
}

// await waits for the first keys, but not for long.
func (k *cookieKeys) await(long time.Duration) {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-k.first:
	case <-timer.C:
	}
}

// refresh asks for a look at storage soon.
func (k *cookieKeys) refresh() {
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

// keep keeps the keys up to date until ctx ends.
func (k *cookieKeys) keep(ctx context.Context, storage *keyStore, logger *zap.Logger) {
	k.logger.Store(logger)
	failed := false
	for {
		err := k.update(ctx, storage, time.Now())
		if ctx.Err() != nil {
			return
		}
		wait := keysEvery
		switch {
		case err != nil && !failed:
			logger.Warn("the keys of the limits' cookies are not in storage", zap.Error(err),
				zap.String("hint", "Keys of this process are used meanwhile, and storage is tried again each minute. Until then other instances do not know who was proven here, and after a restart nobody is. Limits work all the same. Look at the storage that Caddy is configured with."))
		case err == nil && failed:
			logger.Info("the keys of the limits' cookies are in storage again")
		}
		if failed = err != nil; failed {
			wait = keysRetry
		}
		if !k.pause(ctx, wait+rand.N(wait/10)) {
			return
		}
	}
}

// pause waits for a time, or until somebody asks; false when ctx ends.
func (k *cookieKeys) pause(ctx context.Context, wait time.Duration) bool {
	least := time.NewTimer(keysRefresh)
	defer least.Stop()
	most := time.NewTimer(wait)
	defer most.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-least.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-k.asked:
	case <-most.C:
	}
	return true
}

// update takes over the stored keys, with a new one if it is time. Without
// storage it goes on with those that it has.
func (k *cookieKeys) update(ctx context.Context, storage *keyStore, now time.Time) error {
	ring, err := k.fetch(ctx, storage, now)
	if err != nil {
		ring = ratelimit.KeyRing{}
		if own := k.ring.Load(); own != nil {
			ring = *own
		}
		if ring.Due(now) {
			ring = ring.Rotate(newSecret(), now)
		}
	}
	k.ring.Store(&ring)
	k.once.Do(func() { close(k.first) })
	return err
}

// fetch asks storage, for so long as patience lasts: a storage may pay no heed to
// contexts.
func (k *cookieKeys) fetch(ctx context.Context, storage *keyStore, now time.Time) (ratelimit.KeyRing, error) {
	if !storage.asked.CompareAndSwap(false, true) {
		return ratelimit.KeyRing{}, errStillAsked
	}
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	type result struct {
		ring ratelimit.KeyRing
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer cancel()
		ring, err := k.exchange(ctx, storage, now)
		storage.asked.Store(false)
		done <- result{ring, err}
	}()
	select {
	case r := <-done:
		return r.ring, r.err
	case <-ctx.Done():
		select {
		case r := <-done: // it ended because it was done
			return r.ring, r.err
		default:
			return ratelimit.KeyRing{}, fmt.Errorf("asking storage for keys: %w", context.Cause(ctx))
		}
	}
}

// exchange loads the keys, and stores them with a new one if it is time.
func (k *cookieKeys) exchange(ctx context.Context, storage keyStorage, now time.Time) (ratelimit.KeyRing, error) {
	ring, err := k.load(ctx, storage)
	if err != nil || !ring.Due(now) {
		return ring, err
	}
	if err := storage.Lock(ctx, keysLock); err != nil {
		return ring, fmt.Errorf("locking keys: %w", err)
	}
	defer func() { _ = storage.Unlock(context.WithoutCancel(ctx), keysLock) }()
	if ring, err = k.load(ctx, storage); err != nil || !ring.Due(now) {
		return ring, err // another instance was faster
	}
	if own := k.ring.Load(); own != nil && len(ring.Keys) == 0 {
		ring = *own // storage has lost them, or is there at last
	}
	if ring.Due(now) {
		ring = ring.Rotate(newSecret(), now)
	}
	data, err := json.Marshal(ring)
	if err != nil {
		return ring, fmt.Errorf("encoding keys: %w", err)
	}
	if err := storage.Store(ctx, keysPath, data); err != nil {
		return ring, fmt.Errorf("storing keys: %w", err)
	}
	return ring, nil
}

// load returns an empty ring if there are no keys, or none that can be read: what is
// broken is replaced.
func (k *cookieKeys) load(ctx context.Context, storage keyStorage) (ratelimit.KeyRing, error) {
	data, err := storage.Load(ctx, keysPath)
	if errors.Is(err, fs.ErrNotExist) {
		return ratelimit.KeyRing{}, nil
	}
	if err != nil {
		return ratelimit.KeyRing{}, fmt.Errorf("loading keys: %w", err)
	}
	ring, err := ratelimit.ParseKeyRing(data)
	if err != nil {
		if logger := k.logger.Load(); logger != nil {
			logger.Warn("the stored keys of the limits' cookies cannot be read", zap.Error(err), zap.String("path", keysPath),
				zap.String("hint", "They are replaced by those of this process, or by new ones: then all visitors have to prove themselves anew. Somebody has changed the file, or storage has damaged it."))
		}
		return ratelimit.KeyRing{}, nil
	}
	return ring, nil
}

func newSecret() (secret [ratelimit.SecretBytes]byte) {
	_, _ = crand.Read(secret[:]) // never fails
	return secret
}
