// SPDX-License-Identifier: Apache-2.0

// The smoke test: the real binaries, as a new user builds and runs them.

package resetguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binary finds what `./xcaddy.sh test` has built.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("RESET_GUARD_BINARIES")
	if dir == "" {
		t.Skip("RESET_GUARD_BINARIES is not set: ./xcaddy.sh test builds the binaries and sets it")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run ./xcaddy.sh test, which builds it", err)
	}
	return path
}

func TestSmokeModules(t *testing.T) {
	for _, tc := range []struct {
		binary string
		faulty bool
	}{
		{"caddy", false},
		{"caddy-faultinject", true},
	} {
		t.Run(tc.binary, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), binary(t, tc.binary), "list-modules").CombinedOutput()
			if err != nil {
				t.Fatalf("list-modules: %v\n%s", err, out)
			}
			for _, id := range []string{
				"reset_guard",
				"http.handlers.reset_guard",
				"http.matchers.reset_guard",
				"http.reverse_proxy.selection_policies.reset_guard",
				"http.reverse_proxy.transport.reset_guard",
			} {
				if !hasLine(out, id) {
					t.Errorf("module %s is missing", id)
				}
			}
			if got := hasLine(out, "http.handlers.fault"); got != tc.faulty {
				t.Errorf("module http.handlers.fault: got %v, want %v", got, tc.faulty)
			}
		})
	}
}

func hasLine(out []byte, line string) bool {
	for l := range bytes.Lines(out) {
		if strings.TrimSpace(string(l)) == line {
			return true
		}
	}
	return false
}

// TestSmokeExample runs Caddyfile.example and sends it what a browser would:
// most of what reaches one of its origins is reset, and no client may see that.
func TestSmokeExample(t *testing.T) {
	ports := freePorts(t, 4)
	var log safeBuffer
	cmd := exec.Command(binary(t, "caddy-faultinject"), "run", "--adapter", "caddyfile", "--config", "Caddyfile.example")
	cmd.Env = append(os.Environ(), "PORT="+ports[0], "ORIGIN_A="+ports[1], "ORIGIN_B="+ports[2], "ORIGIN_C="+ports[3],
		"XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { stop(t, cmd, exited, &log) })

	url := "http://127.0.0.1:" + ports[0] + "/"
	awaitAnswer(t, url, exited, &log)
	for i := range 200 {
		status, body, err := get(t.Context(), url)
		if err != nil || status != http.StatusOK || !strings.HasPrefix(body, "Hello from origin") {
			t.Fatalf("request %d: got status %d, body %q, error %v; log:\n%s", i, status, body, err, log.String())
		}
	}
	saved := `"msg":"upstream fault"`
	if !strings.Contains(log.String(), saved) && !strings.Contains(log.String(), "upstream fault\t{") {
		t.Errorf("the log tells of no fault that was saved:\n%s", log.String())
	}
}

func get(ctx context.Context, url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// awaitAnswer polls until the server listens.
func awaitAnswer(t *testing.T, url string, exited <-chan error, log *safeBuffer) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, _, err := get(t.Context(), url); err == nil {
			return
		}
		select {
		case err := <-exited:
			t.Fatalf("the server ended: %v\n%s", err, log.String())
		case <-deadline:
			t.Fatalf("no answer from %s within 30s\n%s", url, log.String())
		case <-tick.C:
		}
	}
}

func stop(t *testing.T, cmd *exec.Cmd, exited <-chan error, log *safeBuffer) {
	t.Helper()
	_ = cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-exited:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Errorf("ending the server: %v", err)
		}
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		t.Errorf("the server did not end within 20s of an interrupt:\n%s", log.String())
	}
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ports = append(ports, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
	}
	return ports
}

// safeBuffer takes a process's output while it is read.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
