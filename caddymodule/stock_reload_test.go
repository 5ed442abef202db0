// SPDX-License-Identifier: Apache-2.0

// A reload while requests are under way loses none of them.

package caddymodule_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

const reloads = 4

// generations is an origin that answers /slow in two halves, the second of which
// it sends when a request has come through the next configuration.
type generations struct {
	seen    [reloads + 1]chan bool
	once    [reloads + 1]sync.Once
	arrived chan bool
	ids     sync.Map // of the requests that were seen
}

func newGenerations() *generations {
	g := &generations{arrived: make(chan bool, reloads)}
	for i := range g.seen {
		g.seen[i] = make(chan bool)
	}
	return g
}

func (g *generations) serve(w http.ResponseWriter, r *http.Request) {
	var n int
	_, _ = fmt.Sscan(r.Header.Get("X-Generation"), &n)
	g.once[n].Do(func() { close(g.seen[n]) })
	g.ids.Store(r.Header.Get("X-Request-Id"), true)
	body, err := io.ReadAll(r.Body)
	if r.URL.Path == "/slow" {
		_, _ = io.WriteString(w, "first half ")
		_ = http.NewResponseController(w).Flush()
		g.arrived <- true
		select {
		case <-g.seen[n+1]:
		case <-r.Context().Done():
			return
		}
	}
	fmt.Fprintf(w, "got %d %v", len(body), err)
}

// unixClient reaches a Caddy that listens on a Unix socket, which is kept open
// over reloads; on TCP the kernel resets connections that wait at a listener
// which is closed.
func unixClient(t *testing.T, path string) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * patience}
}

// reloadConfig is the n-th configuration.
func reloadConfig(t *testing.T, socket, log, proxy string, n int) []byte {
	return adapt(t, fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 10s
	log default {
		output file %s
		format json
	}
}
http:// {
	bind unix/%s
	%s
}
`, log, socket, strings.ReplaceAll(proxy, "GENERATION", fmt.Sprint(n))))
}

func TestStockReloadUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		dir, g := t.TempDir(), newGenerations()
		socket := filepath.Join(dir, "s")
		upstreams := origin(t, g.serve)
		if directive == guarded { // which also has faults to mend meanwhile
			upstreams = join(upstreams, startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest}).Addr())
		}
		proxy := fmt.Sprintf("%s %s {\n header_up X-Generation GENERATION\n }", directive, upstreams)
		s := &server{log: filepath.Join(dir, "log")}
		s.load(t, reloadConfig(t, socket, s.log, proxy, 0))
		client := unixClient(t, socket)

		done := make(chan struct{})
		results := make(chan error, 4+reloads)
		for worker := range 4 {
			go func() { results <- g.sendUntil(t.Context(), client, worker, done) }()
		}
		for n := 1; n <= reloads; n++ {
			go func() { results <- g.send(t.Context(), client, "/slow", fmt.Sprint("slow ", n)) }()
			receive(t, "the slow request arrives", g.arrived)
			if err := caddy.Load(reloadConfig(t, socket, s.log, proxy, n), true); err != nil {
				t.Fatalf("reload %d: %v", n, err)
			}
			receive(t, "a request through the new configuration", g.seen[n])
		}
		close(done)
		for range 4 + reloads {
			if err := receive(t, "a client's result", results); err != nil {
				t.Error(err)
			}
		}
	})
}

// sendUntil sends one request after the other.
func (g *generations) sendUntil(ctx context.Context, client *http.Client, worker int, done <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-done:
			return nil
		default:
		}
		if err := g.send(ctx, client, "/", fmt.Sprint(worker, " ", i)); err != nil {
			return err
		}
	}
}

// send sends a request until Caddy takes it: a server that is about to stop may
// close a connection that it has just accepted. Once the origin has seen the
// request, the answer must come.
func (g *generations) send(ctx context.Context, client *http.Client, path, id string) error {
	for ctx.Err() == nil {
		err := sendPut(ctx, client, path, id)
		if _, seen := g.ids.Load(id); seen || err == nil {
			return err
		}
	}
	return ctx.Err()
}

// sendPut wants the answer; the origin that fails is passed over by the guard.
func sendPut(ctx context.Context, client *http.Client, path, id string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://site.test"+path, strings.NewReader("some body"))
	if err != nil {
		return err
	}
	req.Header.Set("X-Request-Id", id)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	want := map[string]string{"/": "got 9 <nil>", "/slow": "first half got 9 <nil>"}[path]
	if err == nil && (res.StatusCode != http.StatusOK || string(got) != want) {
		err = errors.New("wrong answer")
	}
	if err != nil {
		return fmt.Errorf("%s: got %d %q, want %q: %w", path, res.StatusCode, got, want, err)
	}
	return nil
}
