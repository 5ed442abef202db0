// SPDX-License-Identifier: Apache-2.0

// Tests of the progress bar and of what stands for it without a terminal.

package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestBar(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	var out bytes.Buffer
	b := &bar{out: &out, width: 80, faults: 2, requests: 2}
	for _, step := range []struct {
		name string
		do   func()
		want string // newly written
	}{
		{"begins", func() { b.begin(faultinject.Garbage, t0) }, "\r[..............................]   0%  1/2 garbage"},
		{"too soon to draw again", func() { b.step(t0.Add(redrawEvery - 1)) }, ""},
		{"next request", func() { b.step(t0.Add(redrawEvery)) }, "\r[###############...............]  50%  1/2 garbage"},
		{"ends", func() { b.end(2, t0.Add(redrawEvery)) }, "\r[###############...............]  50%  2/2 garbage"},
		{"a shorter name covers the longer one", func() { b.begin(faultinject.None, t0.Add(redrawEvery)) },
			"\r[###############...............]  50%  2/2 none   "},
		{"all done", func() { b.end(2, t0.Add(redrawEvery)) }, "\r[##############################] 100%  2/2 none"},
		{"wiped away", func() { b.close() }, "\r" + strings.Repeat(" ", 47) + "\r"},
	} {
		out.Reset()
		step.do()
		if got := out.String(); got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
	}
}

func TestBarFitsTheTerminal(t *testing.T) {
	var out bytes.Buffer
	for _, width := range []int{1, 20, 41} {
		out.Reset()
		b := &bar{out: &out, width: width, faults: 1, requests: 1}
		b.begin(faultinject.StallBeforeHeaders, time.Time{})
		if got := out.Len() - len("\r"); got != width-1 {
			t.Errorf("width %d: got %d characters, want %d", width, got, width-1)
		}
	}
}

func TestLinesWithoutTerminal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t0 := time.Unix(1_700_000_000, 0)
	p := newProgress(f, options{faults: make([]faultinject.Fault, 3)})
	p.begin(faultinject.None, t0)
	p.step(t0)
	p.end(300, t0.Add(1234*time.Millisecond))
	p.begin(faultinject.Refuse, t0)
	p.end(40, t0.Add(2*time.Second))
	p.close()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "1/3 none: 300 requests in 1.2s\n2/3 refuse: 40 requests in 2s\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
