// SPDX-License-Identifier: Apache-2.0

// The tests' Caddy: a real one, in this process, on loopback.

package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/resetguard/caddy-resetguard/caddymodule"
)

// server is a running Caddy with one site.
type server struct {
	addr string // host:port of the site
	log  string // the log file
}

func (s *server) url(path string) string { return "http://" + s.addr + path }

// freeAddr finds a port of loopback that nobody listens on. It must be free at
// all addresses, as Caddy listens for a site there, and below the ports that the
// kernel gives to outgoing connections: one of them could take it at once.
func freeAddr(tb testing.TB) string { return freeAddrFrom(tb, 20000, 10000) }

func freeAddrFrom(tb testing.TB, first, n int) string {
	tb.Helper()
	for range 100 {
		port := first + rand.N(n)
		if ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			_ = ln.Close()
			return fmt.Sprintf("127.0.0.1:%d", port)
		}
	}
	tb.Fatal("no free port found")
	return ""
}

// serve runs a Caddy with one plain-HTTP site that consists of the directives
// given. Only one Caddy can run in a process, so such tests are not parallel.
func serve(tb testing.TB, directives string) *server {
	tb.Helper()
	return serveConfig(tb, "", "", directives)
}

// serveConfig is serve with global options and options of the server.
func serveConfig(tb testing.TB, global, serverOptions, directives string) *server {
	tb.Helper()
	s := newServer(tb)
	s.load(tb, s.config(tb, global, serverOptions, directives))
	return s
}

func newServer(tb testing.TB) *server {
	return &server{addr: freeAddr(tb), log: filepath.Join(tb.TempDir(), "caddy.log")}
}

// config is what serveConfig runs.
func (s *server) config(tb testing.TB, global, serverOptions, directives string) []byte {
	tb.Helper()
	return adapt(tb, fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 1s
	log default {
		output file %s
		format json
		level DEBUG
	}
	servers {
		%s
	}
	%s
}
http://%s {
	%s
}
`, s.log, serverOptions, global, s.addr, directives))
}

// load runs config until the test ends.
func (s *server) load(tb testing.TB, config []byte) {
	tb.Helper()
	if err := caddy.Load(config, true); err != nil {
		tb.Fatalf("loading the configuration: %v", err)
	}
	caddymodule.OnlyInjectedPressureForTest(0)
	tb.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			tb.Errorf("stopping Caddy: %v", err)
		}
	})
}

// awaitOneListener waits after a reload until nobody but the new configuration listens at
// addr. On Linux each has a socket of its own there (SO_REUSEPORT), and the kernel resets
// what waits to be accepted by the old one as that is closed. Another process may have a
// socket there, too: after a while it goes on all the same.
func awaitOneListener(tb testing.TB, addr string) {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	n, convErr := strconv.Atoi(port)
	if err != nil || convErr != nil {
		tb.Fatal(addr, err, convErr)
	}
	listens := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A `, n))
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		four, _ := os.ReadFile("/proc/net/tcp") // neither is there on other systems
		six, _ := os.ReadFile("/proc/net/tcp6")
		if len(listens.FindAll(four, -1))+len(listens.FindAll(six, -1)) <= 1 {
			return
		}
	}
}

func adapt(tb testing.TB, caddyfile string) []byte {
	tb.Helper()
	config, err := tryAdapt(caddyfile)
	if err != nil {
		tb.Fatalf("adapting the Caddyfile: %v\n%s", err, caddyfile)
	}
	return config
}

func tryAdapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// logLine is a line of Caddy's log.
type logLine map[string]any

func (l logLine) text(key string) string {
	s, _ := l[key].(string)
	return s
}

// faults returns the lines that the guard wrote about faults.
func (s *server) faults(tb testing.TB) []logLine {
	tb.Helper()
	var lines []logLine
	for _, l := range s.linesWith(tb, "upstream fault") {
		if l.text("logger") == "reset_guard" && l.text("msg") == "upstream fault" {
			lines = append(lines, l)
		}
	}
	return lines
}

func (s *server) lines(tb testing.TB) []logLine { return s.linesWith(tb, "") }

// linesWith reads those lines that contain a text: logs grow long.
func (s *server) linesWith(tb testing.TB, part string) []logLine {
	tb.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		tb.Fatal(err)
	}
	var lines []logLine
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // just being written
		}
		if !bytes.Contains(line, []byte(part)) {
			continue
		}
		var l logLine
		if err := json.Unmarshal(line, &l); err != nil {
			tb.Fatalf("log line is not JSON: %v: %s", err, line)
		}
		lines = append(lines, l)
	}
	return lines
}

// eventually polls ok until it holds, for what happens in the background.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("%s: not within 20s", what)
		case <-tick.C:
		}
	}
}

// newClient makes a client that opens a connection for each request, so that no
// fault of one test shows in another.
func newClient(tb testing.TB) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// join makes the upstream list of a directive.
func join(addrs ...string) string { return strings.Join(addrs, " ") }
