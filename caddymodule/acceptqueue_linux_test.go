// SPDX-License-Identifier: Apache-2.0

// A queue of connections not yet accepted that runs full, before and after a reload.

package caddymodule_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/sys/unix"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/health/pressure"
)

func init() { caddy.RegisterModule(new(slowAccept)) }

// slowAccept wraps listeners: while a file exists they accept nothing, like a
// process that has no time to.
type slowAccept struct {
	While string `json:"while,omitempty"`
}

func (*slowAccept) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.reset_guard_slow_accept", New: func() caddy.Module { return new(slowAccept) }}
}

func (s *slowAccept) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.AllArgs(&s.While)
	return nil
}

func (s *slowAccept) WrapListener(ln net.Listener) net.Listener {
	return &slowListener{Listener: ln, while: s.While}
}

type slowListener struct {
	net.Listener
	while string
}

func (l *slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	for err == nil && exists(l.while) {
		time.Sleep(time.Millisecond)
	}
	return conn, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// shortQueues gives the sites' listeners a queue of eight.
func shortQueues(t *testing.T) {
	t.Helper()
	all := caddymodule.ListenersForTest()
	if len(all) == 0 {
		t.Fatal("no listener was found")
	}
	for _, conn := range all {
		err := conn.Control(func(fd uintptr) {
			if err := unix.Listen(int(fd), 8); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestFullAcceptQueue(t *testing.T) {
	leaveNothing(t)
	busy := filepath.Join(t.TempDir(), "busy")
	s := newServer(t)
	config := func(also string) []byte {
		return s.config(t, "", "listener_wrappers {\nreset_guard_slow_accept "+busy+"\n}",
			fmt.Sprintf("%s\nreset_guard %s", also, origin(t, func(http.ResponseWriter, *http.Request) {})))
	}
	s.load(t, config(""))
	if err := caddy.Load(config("header X-Second config"), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second configuration", func() bool { return s.get(t, "/").header.Get("X-Second") != "" })
	caddymodule.OnlyPressureOfForTest(pressure.AcceptQueue, pressure.DefaultAcceptQueue)
	shortQueues(t)

	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const crowd = 12
	var got answered
	for range crowd {
		go got.ask(t, keeper(t), s.url("/"))
	}
	told := func(to pressure.Level) func() bool {
		return func() bool {
			for _, l := range s.lines(t) {
				if l.text("resource") == pressure.AcceptQueue.String() && l.text("to") == to.String() {
					return true
				}
			}
			return false
		}
	}
	eventually(t, "a pressure of the queue", told(pressure.Critical))
	if err := os.Remove(busy); err != nil {
		t.Fatal(err)
	}
	eventually(t, "answers to all", func() bool { return got.all() == crowd })
	t.Logf("%d were served, %d refused", got.ok.Load(), got.refused.Load())
	eventually(t, "service as before", func() bool { return s.get(t, "/").status == http.StatusOK })
	eventually(t, "a lower level", told(pressure.High))
}
