// SPDX-License-Identifier: Apache-2.0

// Keys in storage that works, that lost them, and that is away.

package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// Whatever was stored, there are keys in the end.
func TestStoredKeysThatAreBroken(t *testing.T) {
	now := time.Now()
	for name, stored := range map[string]string{
		"nothing": "", "text": "x", "no keys": `{"keys":[]}`, "short secret": `{"keys":[{"id":1,"secret":"AA=="}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := &memoryStorage{data: []byte(stored)}
			k := newCookieKeys()
			core, lines := observer.New(zap.WarnLevel)
			k.logger.Store(zap.New(core))
			if err := k.update(t.Context(), &keyStore{keyStorage: s}, now); err != nil {
				t.Fatal(err)
			}
			ring, err := ratelimit.ParseKeyRing(s.data)
			if err != nil || k.ring.Load() == nil || string(k.ring.Load().Keys[0].Secret) != string(ring.Keys[0].Secret) {
				t.Errorf("stored %s, %v", s.data, err)
			}
			if told := lines.Len() > 0; told != (stored != "") {
				t.Errorf("got %d lines", lines.Len())
			}
		})
	}
}

// Keys are rotated each day by whoever is first, and all use the new one.
func TestKeysRotateOnce(t *testing.T) {
	start, s := time.Now(), new(memoryStorage)
	one, other := newCookieKeys(), newCookieKeys()
	for day := range 12 {
		now := start.Add(time.Duration(day) * ratelimit.KeyLifetime)
		for _, k := range []*cookieKeys{one, other, one} {
			if err := k.update(t.Context(), &keyStore{keyStorage: s}, now); err != nil {
				t.Fatal(err)
			}
		}
		a, b := one.ring.Load(), other.ring.Load()
		if a.Keys[0].ID != b.Keys[0].ID || string(a.Keys[0].Secret) != string(b.Keys[0].Secret) {
			t.Fatalf("day %d: two instances have different keys", day)
		}
		if want := min(day+1, 9); len(a.Keys) != want {
			t.Errorf("day %d: got %d keys, want %d", day, len(a.Keys), want)
		}
	}
}

// Keys that were made while storage was away get there when it is back.
func TestKeysSurviveLostStorage(t *testing.T) {
	s, k, now := &memoryStorage{err: errors.New("away")}, newCookieKeys(), time.Now()
	if k.update(t.Context(), &keyStore{keyStorage: s}, now) == nil || k.ring.Load() == nil {
		t.Fatal("want an error, and keys all the same")
	}
	own := k.ring.Load().Keys[0].Secret
	s.err = nil
	if err := k.update(t.Context(), &keyStore{keyStorage: s}, now); err != nil {
		t.Fatal(err)
	}
	if ring, err := ratelimit.ParseKeyRing(s.data); err != nil || string(ring.Keys[0].Secret) != string(own) {
		t.Errorf("stored %s, %v", s.data, err)
	}
}

// Storage that never answers holds one goroutine, not one more with each try.
func TestStorageThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := &silentStorage{quit: make(chan struct{})}, newCookieKeys()
		defer close(s.quit)
		store := &keyStore{keyStorage: s}
		for range 5 {
			if k.update(t.Context(), store, time.Now()) == nil || k.ring.Load() == nil {
				t.Fatal("want an error, and keys all the same")
			}
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
	})
}

type silentStorage struct {
	keyStorage
	asked atomic.Int32
	quit  chan struct{}
}

func (s *silentStorage) Load(context.Context, string) ([]byte, error) {
	s.asked.Add(1)
	<-s.quit
	return nil, fs.ErrNotExist
}

func (s *silentStorage) Lock(context.Context, string) error { return errors.New("away") }

// memoryStorage is one for a test's goroutine and the one that it starts.
type memoryStorage struct {
	mu   sync.Mutex
	data []byte
	err  error
	lock sync.Mutex
}

func (s *memoryStorage) Load(context.Context, string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && len(s.data) == 0 {
		return nil, fs.ErrNotExist
	}
	return s.data, s.err
}

func (s *memoryStorage) Store(_ context.Context, _ string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.data = value
	}
	return s.err
}

func (s *memoryStorage) Lock(context.Context, string) error {
	s.lock.Lock()
	return nil
}

func (s *memoryStorage) Unlock(context.Context, string) error {
	s.lock.Unlock()
	return nil
}
