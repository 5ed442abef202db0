// SPDX-License-Identifier: Apache-2.0

// Reloads under load: no request is lost, and what was known of the upstreams
// before is known after, whoever comes or goes.

package caddymodule_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// seenOrigin answers as sendPut wants it and remembers what it saw.
type seenOrigin struct{ ids sync.Map }

func (o *seenOrigin) serve(w http.ResponseWriter, r *http.Request) {
	o.ids.Store(r.Header.Get("X-Request-Id"), true)
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "got %d %v", len(body), err)
}

// send sends a request, and once more if the server closed the connection
// without looking at it, as one that is about to stop may do.
func (o *seenOrigin) send(ctx context.Context, client *http.Client, id string) error {
	for ctx.Err() == nil {
		err := sendPut(ctx, client, "/", id)
		if _, seen := o.ids.Load(id); seen || err == nil {
			return err
		}
	}
	return ctx.Err()
}

// stateReload is the site of which the upstreams change.
type stateReload struct {
	*testing.T
	server
	socket string
	client *http.Client
	good   *seenOrigin
	bad    *faultinject.Origin
	sent   int
}

func (s *stateReload) config(upstreams []string) []byte {
	return reloadConfig(s.T, s.socket, s.log,
		fmt.Sprintf("%s %s {\n eject {\n base 1h\n max 2h\n }\n }", guarded, join(upstreams...)), 0)
}

// ask sends some requests, all of which must be answered.
func (s *stateReload) ask(n int) {
	s.Helper()
	for range n {
		s.sent++
		if err := s.good.send(s.Context(), s.client, fmt.Sprint("probe ", s.sent)); err != nil {
			s.Fatal(err)
		}
	}
}

// ejectBad makes the bad origin fail until it is ejected.
func (s *stateReload) ejectBad() {
	s.Helper()
	if err := s.bad.SetFault(faultinject.CloseAfterRequest, 1); err != nil {
		s.Fatal(err)
	}
	for len(s.told(s, "upstream ejected")) == 0 {
		if s.ask(10); s.sent > 10_000 {
			s.Fatal("an origin that fails always is not ejected after ten thousand requests")
		}
	}
	// From here on nobody could tell from its answers that it was ever bad.
	if err := s.bad.SetFault(faultinject.None, 1); err != nil {
		s.Fatal(err)
	}
}

func TestReloadsKeepWhatIsKnown(t *testing.T) {
	leaveNothing(t)
	dir := t.TempDir()
	s := &stateReload{
		T: t, server: server{log: filepath.Join(dir, "log")}, socket: filepath.Join(dir, "s"),
		good: new(seenOrigin), bad: startOrigin(t, faultinject.Config{Name: "bad"}),
	}
	a, b, c := origin(t, s.good.serve), origin(t, s.good.serve), origin(t, s.good.serve)
	s.client = unixClient(t, s.socket)
	s.load(t, s.config([]string{a, s.bad.Addr(), b}))
	s.ejectBad()
	before := s.bad.Requests()

	stop := make(chan struct{})
	results := make(chan error, 4)
	for worker := range cap(results) {
		go func() { results <- s.good.sendUntil(t.Context(), s.client, worker, stop) }()
	}
	changes := [][]string{
		{a, s.bad.Addr(), b},    // the same
		{a, s.bad.Addr(), b, c}, // one more
		{s.bad.Addr(), c, b},    // another order, and one less
		{a, c},                  // the ejected one is gone
		{c, s.bad.Addr(), a, b}, // and comes back
	}
	for n := range 20 {
		if err := caddy.Load(s.config(changes[n%len(changes)]), true); err != nil {
			t.Fatalf("reload %d: %v", n, err)
		}
		s.ask(20)
		if got := s.bad.Requests() - before; got != 0 {
			t.Fatalf("after reload %d, with %s, the ejected origin got %d requests", n, strings.Join(changes[n%len(changes)], " "), got)
		}
	}
	close(stop)
	for range cap(results) {
		if err := receive(t, "a client's result", results); err != nil {
			t.Error(err)
		}
	}
	expect(t, "ejections", len(s.told(t, "upstream ejected")), 1)
	expect(t, "origins restored", len(s.told(t, "upstream restored")), 0)
}

// Of five origins two may be out, of three one: the reload frees one of them, and
// tells.
func TestReloadToSmallerPoolFreesWhatExceeds(t *testing.T) {
	leaveNothing(t)
	dir := t.TempDir()
	s := &stateReload{
		T: t, server: server{log: filepath.Join(dir, "log")}, socket: filepath.Join(dir, "s"),
		good: new(seenOrigin), bad: startOrigin(t, faultinject.Config{Name: "bad"}),
	}
	a, b, c := origin(t, s.good.serve), origin(t, s.good.serve), origin(t, s.good.serve)
	worse := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest, Handler: http.HandlerFunc(s.good.serve)})
	s.client = unixClient(t, s.socket)
	s.load(t, s.config([]string{a, b, c, s.bad.Addr(), worse.Addr()}))
	if err := s.bad.SetFault(faultinject.CloseAfterRequest, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are ejected", func() bool {
		s.ask(20)
		return len(s.told(t, "upstream ejected")) == 2
	})
	if err := caddy.Load(s.config([]string{a, s.bad.Addr(), worse.Addr()}), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is free", func() bool {
		s.ask(1)
		return len(s.told(t, "upstream restored")) > 0
	})
	restored := s.told(t, "upstream restored")
	if len(restored) != 1 || restored[0].text("reason") != "max_share" {
		t.Errorf("restored: got %v, want one, for max_share", restored)
	}
	s.ask(20)
}

// sendUntil sends one request after the other.
func (o *seenOrigin) sendUntil(ctx context.Context, client *http.Client, worker int, stop <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := o.send(ctx, client, fmt.Sprint(worker, " ", i)); err != nil {
			return fmt.Errorf("request %d of client %d: %w", i, worker, errors.Unwrap(err))
		}
	}
}
