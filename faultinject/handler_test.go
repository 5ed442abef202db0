// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
)

// provision makes a handler ready; its configuration ends with cancel.
func provision(t *testing.T, h *Handler) (cancel func()) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := errors.Join(h.Provision(ctx), h.Validate()); err != nil {
		t.Fatal(err)
	}
	h.logger = zap.NewNop() // Caddy's is loud outside of Caddy
	return cancel
}

// wrapper is what a listener wrapper puts around a connection.
type wrapper struct{ net.Conn }

type wrappingListener struct{ net.Listener }

func (l wrappingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrapper{c}, nil
}

// site is a net/http server with the fault in front of a handler that answers
// all requests with bytes.
func site(t *testing.T, h *Handler, p Protocol) (*httptest.Server, *http.Client) {
	t.Helper()
	provision(t, h)
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		_, err := w.Write(Bytes(100_000))
		return err
	})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "test")
		if err := h.ServeHTTP(w, r, next); err != nil {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	s.Listener = wrappingListener{s.Listener}
	s.EnableHTTP2 = p.h2()
	if p.tls() {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, s.Client()
}

func TestHandlerFaults(t *testing.T) {
	short := caddy.Duration(20 * time.Millisecond)
	for _, row := range []struct {
		h    Handler
		is   func(error) bool
		body int // bytes of the answer that came through
	}{
		{Handler{Kind: ResetAfterHeader}, isGone, 0},
		{Handler{Kind: ResetInUpload, After: 9}, isGone, 0},
		{Handler{Kind: CloseInUpload}, isGone, 0},
		{Handler{Kind: ResetAfterRequest}, isReset, 0},
		{Handler{Kind: CloseAfterRequest}, isClosed, 0},
		{Handler{Kind: ResetInHeaders}, func(err error) bool { return isReset(err) || isClosed(err) }, 0},
		{Handler{Kind: CloseInHeaders}, isClosed, 0},
		{Handler{Kind: ResetInBody}, isReset, 50_000},
		{Handler{Kind: ResetInBody, After: 5}, isReset, 5},
		{Handler{Kind: CloseInBody}, isClosed, 50_000},
		{Handler{Kind: Garbage}, saying("malformed HTTP"), 0},
		{Handler{Kind: BadHeader}, saying("malformed MIME header"), 0},
		{Handler{Kind: StallBeforeHeaders, For: short}, isClosed, 0},
		{Handler{Kind: StallInHeaders, For: short}, isClosed, 0},
		{Handler{Kind: StallInBody, For: short, After: 100}, isClosed, 100},
	} {
		for _, p := range []Protocol{H1, H1TLS, H2} {
			t.Run(fmt.Sprintf("%s/%s/%d", p, row.h.Kind, row.h.After), func(t *testing.T) {
				t.Parallel()
				h := row.h
				s, c := site(t, &h, p)
				_, body, err := do(c, "POST", s.URL, struct{ io.Reader }{bytes.NewReader(Bytes(50_000))})
				is := row.is
				if p.h2() { // all that a handler can do there
					is = isStreamError(http2.ErrCodeInternal)
				}
				if err == nil || !is(err) {
					t.Errorf("got %v", err)
				}
				if !bytes.Equal(body, Bytes(row.body)) {
					t.Errorf("body: got %d bytes, want the first %d", len(body), row.body)
				}
			})
		}
	}
}

func TestHandlerResetIsARealOne(t *testing.T) {
	s, _ := site(t, &Handler{Kind: ResetInHeaders}, H1)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c, get).check(t, true, func(got []byte) bool {
		return halfHeader(got) && !bytes.Contains(got, []byte("Transfer-Encoding"))
	})
}

func TestHandlerStatuses(t *testing.T) {
	for _, row := range []struct {
		h    Handler
		want int
	}{
		{Handler{Kind: None}, 200},
		{Handler{Kind: Status429}, 429},
		{Handler{Kind: Status500}, 500},
		{Handler{Kind: Status502}, 502},
		{Handler{Kind: Status503}, 503},
		{Handler{Kind: Status504}, 504},
		{Handler{Kind: Status, Status: 599}, 599},
	} {
		t.Run(string(row.h.Kind), func(t *testing.T) {
			h := row.h
			after := ""
			if row.want != 200 {
				h.RetryAfter, after = caddy.Duration(2*time.Second), "2"
			}
			s, c := site(t, &h, H1)
			resp, _, err := do(c, "GET", s.URL, nil)
			if err != nil || resp.StatusCode != row.want || resp.Header.Get("Retry-After") != after {
				t.Errorf("got %v, %v, want %d with Retry-After %q", resp, err, row.want, after)
			}
		})
	}
}

func TestHandlerProbability(t *testing.T) {
	results := func(seed uint64, probability float64) (s string) {
		srv, c := site(t, &Handler{Kind: Status503, Probability: &probability, Seed: seed}, H1)
		for range 100 {
			resp, _, err := do(c, "GET", srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			s += fmt.Sprint(resp.StatusCode / 100)
		}
		return s
	}
	first := results(1, 0.6)
	if n := strings.Count(first, "5"); n < 45 || n > 75 {
		t.Errorf("probability 0.6: got %d of 100", n)
	}
	if again := results(1, 0.6); again != first {
		t.Errorf("same seed: got %s, want %s", again, first)
	}
	if other := results(2, 0.6); other == first {
		t.Error("another seed: got the same sequence")
	}
	if s := results(1, 0); strings.Contains(s, "5") {
		t.Errorf("probability 0: got %s", s)
	}
}

func TestHandlerKeepsLittleOfALongAnswer(t *testing.T) {
	h := &Handler{Kind: CloseInBody}
	provision(t, h)
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		for range 40 {
			if _, err := w.Write(make([]byte, maxHandlerAnswer/10)); err != nil {
				return err
			}
		}
		return nil
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.ServeHTTP(w, r, next); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	resp, body, err := do(s.Client(), "GET", s.URL, nil)
	if !isClosed(err) || len(body) != maxHandlerAnswer || resp.ContentLength != maxHandlerAnswer/10*40 {
		t.Errorf("got %d of %d bytes, %v, want %d of %d", len(body), resp.ContentLength, err, maxHandlerAnswer, maxHandlerAnswer/10*40)
	}
}

func TestHandlerLeavesErrorsToCaddy(t *testing.T) {
	h := &Handler{Kind: ResetInBody}
	provision(t, h)
	failed := errors.New("next handler failed")
	err := h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil),
		caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return failed }))
	if !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}

func TestEndOfConfigurationEndsStalls(t *testing.T) {
	for _, row := range []struct {
		kind     Fault
		protocol Protocol
	}{
		{StallBeforeHeaders, H1},
		{StallInBody, H1},
		{StallBeforeHeaders, H2},
		{StallInBody, H2},
	} {
		t.Run(string(row.protocol)+"/"+string(row.kind), func(t *testing.T) {
			h := &Handler{Kind: row.kind, For: caddy.Duration(time.Hour)}
			cancel := provision(t, h)
			var inside atomic.Bool
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				inside.Store(true)
				_ = h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
					_, err := w.Write(Bytes(1000))
					return err
				}))
			}))
			s.EnableHTTP2 = row.protocol.h2()
			s.StartTLS()
			defer s.Close()
			failed := make(chan error, 1)
			go func() {
				_, _, err := do(s.Client(), "GET", s.URL, nil)
				failed <- err
			}()
			waitFor(t, "the request", inside.Load)
			cancel()
			if err := <-failed; err == nil {
				t.Error("got an answer, want an error")
			}
		})
	}
}

func TestUnwrap(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	secure := tls.Client(wrapper{a}, &tls.Config{})
	if w := unwrap(&wrapper{secure}); w.Conn != secure || w.raw != a {
		t.Errorf("got %T over %T, want the TLS connection over the pipe", w.Conn, w.raw)
	}
	if w := unwrap(wrapper{nil}); w.raw == nil {
		t.Error("a wrapper around nothing: got nil")
	}
}
