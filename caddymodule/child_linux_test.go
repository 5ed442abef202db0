// SPDX-License-Identifier: Apache-2.0

// A Caddy in a child process, with limits of its own: what it is made to run out
// of must not be missing in other tests.

package caddymodule_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/sys/unix"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/health/pressure"
)

// childVar holds what a child is to do.
const childVar = "RESET_GUARD_TEST_CADDY"

// childSpec is the child's configuration and its limits.
type childSpec struct {
	Config json.RawMessage
	Files  uint64 // descriptors; 0: as many as the parent has
	// Only is the resource whose pressure counts, between the thresholds Lo and Hi:
	// the machine that runs the tests may be short of others.
	Only   pressure.Resource
	Lo, Hi float64
}

// child is that process.
type child struct {
	*server
	pid   int
	stdin io.WriteCloser
	out   *bufio.Reader
}

// startChild runs a Caddy with one site that consists of the directives given,
// until the test ends.
func startChild(tb testing.TB, spec childSpec, global, directives string) *child {
	tb.Helper()
	c := &child{server: newServer(tb)}
	spec.Config = c.config(tb, global, "", directives)
	text, err := json.Marshal(spec)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildCaddy$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	cmd.Stderr = cmd.Stdout
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c.pid, c.out = cmd.Process.Pid, bufio.NewReader(stdout)
	tb.Cleanup(func() {
		_ = c.stdin.Close()
		rest, _ := io.ReadAll(c.out)
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the child: %v\n%s", err, rest)
		}
	})
	c.await(tb)
	return c
}

// childDone ends what the child says of each command.
const childDone = "child: done"

func (c *child) await(tb testing.TB) {
	tb.Helper()
	var said strings.Builder
	for {
		line, err := c.out.ReadString('\n')
		if strings.HasSuffix(strings.TrimSpace(line), childDone) {
			return
		}
		if said.WriteString(line); err != nil {
			tb.Fatalf("the child has ended: %v\n%s", err, said.String())
		}
	}
}

// tell makes the child do something; it returns when that is done.
func (c *child) tell(tb testing.TB, command string) {
	tb.Helper()
	if _, err := fmt.Fprintln(c.stdin, command); err != nil {
		tb.Fatal(err)
	}
	c.await(tb)
}

// files counts the child's descriptors.
func (c *child) files(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.pid))
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// pressures lists the child's lines about its pressure that name this resource
// and this level.
func (c *child) pressures(tb testing.TB, resource pressure.Resource, to pressure.Level) (n int) {
	tb.Helper()
	for _, l := range c.lines(tb) {
		if strings.HasPrefix(l.text("msg"), "this host") && l.text("resource") == resource.String() && l.text("to") == to.String() {
			n++
		}
	}
	return n
}

// TestChildCaddy is the child; where it is none, there is nothing to test.
func TestChildCaddy(t *testing.T) {
	text := os.Getenv(childVar)
	if text == "" {
		return
	}
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Files > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: spec.Files, Max: spec.Files}); err != nil {
			t.Fatal(err)
		}
	}
	if err := caddy.Load(spec.Config, true); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	}()
	caddymodule.OnlyPressureOfForTest(spec.Only, pressure.Threshold{Lo: spec.Lo, Hi: spec.Hi})
	fmt.Println(childDone)
	var ballast memoryInUse
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); fmt.Println(childDone) {
		switch commands.Text() {
		case "fill":
			ballast.fill()
		case "free":
			ballast.free()
		default:
			t.Fatalf("there is no command %q", commands.Text())
		}
	}
}

// memoryInUse makes memory short.
type memoryInUse struct{ held []byte }

// fill takes memory, and sets a limit of which 90 % are in use then. A limit that
// is only as far from what a test binary has would leave it no memory to work in.
func (m *memoryInUse) fill() {
	m.held = make([]byte, 256<<20)
	for i := 0; i < len(m.held); i += 4096 {
		m.held[i] = 1
	}
	runtime.GC()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/metadata/other:bytes"}}
	metrics.Read(live)
	var used uint64
	for _, s := range live {
		used += s.Value.Uint64()
	}
	debug.SetMemoryLimit(int64(float64(used) / 0.9))
}

// free gives it back; the limit stays.
func (m *memoryInUse) free() {
	m.held = nil
	runtime.GC()
}
