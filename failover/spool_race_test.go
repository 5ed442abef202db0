// SPDX-License-Identifier: Apache-2.0

// Spools under real concurrency: stale readers, Abandon and Close at any moment,
// and net/http's own transports. Worth most with -race.

package failover

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
)

// Attempts that are given up at any moment, while their readers read on, leave
// the body as it is for the last one.
func TestSpoolStaleReaders(t *testing.T) {
	body := spoolBody(300_000)
	for i := range 30 {
		s := newTestSpool(t, bytes.NewReader(body), SpoolConfig{Memory: 100_000, File: 200_000})
		var stale sync.WaitGroup
		for attempt := range 8 {
			r := mustSpoolReader(t, s)
			stale.Go(func() {
				if _, err := io.Copy(spoolHide{io.Discard}, r); err != nil && err != ErrFenced {
					t.Errorf("stale reader: %v", err)
				}
			})
			if attempt%2 == 0 {
				stale.Go(func() { _ = r.Close() })
			}
			_, _ = io.CopyN(io.Discard, mustSpoolReader(t, s), int64(i*10_000))
		}
		got, err := io.ReadAll(mustSpoolReader(t, s))
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("last attempt: got %d bytes, %v; want the body", len(got), err)
		}
		stale.Wait()
	}
}

// Abandon, and a new attempt, in the very moment in which bytes go to the file do
// not take them from the reader that needs them.
func TestSpoolAbandonRace(t *testing.T) {
	body := spoolBody(100_000)
	refused := 0
	for range 500 {
		s := newTestSpool(t, bytes.NewReader(body), SpoolConfig{Memory: 10, File: 1 << 20})
		one := mustSpoolReader(t, s)
		spoolReadN(t, one, 4096)
		var others sync.WaitGroup
		others.Go(func() { _, _ = io.Copy(spoolHide{io.Discard}, one) })
		others.Go(s.Abandon)
		if two, err := s.Reader(); err == nil {
			if got, err := io.ReadAll(two); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("got %d bytes, %v; want the body", len(got), err)
			}
		} else if refused++; !errors.Is(err, ErrNotKept) {
			t.Fatal(err)
		}
		others.Wait()
		if spoolChunks(s) > 0 || spoolHasFile(s) {
			t.Fatal("passed, but still kept")
		}
		s.Close()
	}
	t.Logf("%d of 500 came too late", refused)
}

// Close at any moment leaves nothing behind.
func TestSpoolCloseRace(t *testing.T) {
	body := spoolBody(300_000)
	dir := t.TempDir()
	for i := range 1000 {
		s := NewSpool(io.NopCloser(bytes.NewReader(body)), nil, SpoolConfig{Memory: 10_000, File: 1 << 20, Dir: dir})
		var done sync.WaitGroup
		r := mustSpoolReader(t, s)
		started := make(chan struct{})
		done.Go(func() {
			_, _ = r.Read(make([]byte, 20_000))
			close(started)
			if n, err := io.Copy(spoolHide{io.Discard}, r); err != nil && err != ErrFenced {
				t.Errorf("after %d bytes: %v", n, err)
			}
		})
		<-started
		for range i % 20 {
			runtime.Gosched()
		}
		s.Close()
		done.Wait()
		if spoolChunks(s) > 0 || spoolHasFile(s) {
			t.Fatal("left behind")
		}
	}
	spoolDirEmpty(t, dir)
}

// spoolOrigins serves /cut, which reads a little of the body and breaks the
// exchange off when cut says so (nil: at once), and /sum, which answers with the
// sum of the whole body.
func spoolOrigins(t *testing.T, h2 bool, cut <-chan struct{}) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/cut", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		if cut != nil {
			<-cut
		}
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%x %s", h.Sum(nil), r.Trailer.Get("Digest"))
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = h2
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// spoolAttemptAt makes an attempt that a cancelled context ends also over
// HTTP/1, which waits for a read of the body that is under way.
func spoolAttemptAt(ctx context.Context, t *testing.T, srv *httptest.Server, path string, s *Spool) (string, error) {
	t.Helper()
	r := mustSpoolReader(t, s)
	defer context.AfterFunc(ctx, func() { _ = r.Close() })()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, srv.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = r.Trailer()
	res, err := srv.Client().Transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return string(answer), err
}

// After RoundTrip has failed the transport may still be reading: the next
// attempt, over HTTP/1 and HTTP/2, sends the whole body nevertheless.
func TestSpoolWithTransport(t *testing.T) {
	body := spoolBody(2 << 20)
	want := fmt.Sprintf("%x x", sha256.Sum256(body))
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			srv := spoolOrigins(t, h2, nil)
			trailer := http.Header{"Digest": nil}
			src := spoolTrailerSource{bytes.NewReader(body), trailer}
			s := NewSpool(src, trailer, SpoolConfig{Memory: 1 << 20, File: 1 << 20, Dir: t.TempDir()})
			defer s.Close()
			for range 3 {
				if _, err := spoolAttemptAt(t.Context(), t, srv, "/cut", s); err == nil {
					t.Error("cut: got no error")
				}
			}
			if got, err := spoolAttemptAt(t.Context(), t, srv, "/sum", s); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

// An attempt that is cancelled while it waits for a silent client ends at once;
// what the client sends then is sent by the next attempt.
func TestSpoolTransportReadsOn(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			srv := spoolOrigins(t, h2, nil)
			gate := newSpoolGate()
			s := newTestSpool(t, gate, spoolInMemory)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-gate.entered
				cancel()
			}()
			if _, err := spoolAttemptAt(ctx, t, srv, "/sum", s); err == nil {
				t.Fatal("cancelled: got no error")
			}
			go func() {
				gate.give <- spoolGift{"late", nil}
				<-gate.entered
				gate.give <- spoolGift{" and the rest", io.EOF}
			}()
			want := fmt.Sprintf("%x ", sha256.Sum256([]byte("late and the rest")))
			if got, err := spoolAttemptAt(t.Context(), t, srv, "/sum", s); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

// HTTP/2's transport closes the body when the origin resets the stream, and
// waits for the read of it to end: it does, though the client is silent.
func TestSpoolResetWhileClientIsSilent(t *testing.T) {
	silent := make(chan struct{})
	srv := spoolOrigins(t, true, silent)
	gate := newSpoolGate()
	s := newTestSpool(t, io.MultiReader(bytes.NewReader(spoolBody(1000)), gate), spoolInMemory)
	go func() {
		<-gate.entered
		close(silent)
	}()
	if _, err := spoolAttemptAt(t.Context(), t, srv, "/cut", s); err == nil {
		t.Error("got no error")
	}
	if !s.Whole() {
		t.Error("not whole")
	}
	go func() { gate.give <- spoolGift{"", io.EOF} }()
	want := fmt.Sprintf("%x ", sha256.Sum256(spoolBody(1000)))
	if got, err := spoolAttemptAt(t.Context(), t, srv, "/sum", s); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
