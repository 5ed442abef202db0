// SPDX-License-Identifier: Apache-2.0

// This file shows how far the run is: as a bar in a terminal, as a line per
// fault elsewhere.

package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// progress is told how far the run is. step may be called by many goroutines at
// the same time.
type progress interface {
	begin(f faultinject.Fault, now time.Time)
	step(now time.Time) // one more request was sent on all ways
	end(sent int, now time.Time)
	close()
}

// newProgress shows the progress of a run on w.
func newProgress(w io.Writer, opts options) progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &lines{out: w, faults: len(opts.faults)}
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return &bar{out: w, width: width, faults: len(opts.faults), requests: opts.requests}
}

// lines writes a line for each fault.
type lines struct {
	out    io.Writer
	faults int

	fault faultinject.Fault
	done  int
	began time.Time
}

func (l *lines) begin(f faultinject.Fault, now time.Time) { l.fault, l.began = f, now }
func (l *lines) step(time.Time)                           {}

func (l *lines) end(sent int, now time.Time) {
	l.done++
	_, _ = fmt.Fprintf(l.out, "%d/%d %s: %d requests in %v\n",
		l.done, l.faults, l.fault, sent, now.Sub(l.began).Round(100*time.Millisecond))
}

func (l *lines) close() {}

// redrawEvery keeps a slow terminal from slowing the run.
const redrawEvery = 100 * time.Millisecond

// bar draws one line over and over.
type bar struct {
	out      io.Writer
	width    int // of the terminal
	faults   int
	requests int // for each fault

	mu    sync.Mutex // guards what follows
	fault faultinject.Fault
	done  int // faults
	sent  int // requests of the present fault
	drawn time.Time
	shown int // length of what is drawn
}

func (b *bar) begin(f faultinject.Fault, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault, b.sent = f, 0
	b.drawLocked(now)
}

func (b *bar) step(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	if now.Sub(b.drawn) >= redrawEvery {
		b.drawLocked(now)
	}
}

func (b *bar) end(_ int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	b.sent = 0
	b.drawLocked(now)
}

// close wipes the bar away: what follows on the terminal is the table.
func (b *bar) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.putLocked("")
	_, _ = io.WriteString(b.out, "\r")
}

func (b *bar) drawLocked(now time.Time) {
	b.drawn = now
	b.putLocked(b.textLocked())
}

// putLocked writes over what is there; blanks cover the rest, which, unlike
// escape sequences, works in every terminal.
func (b *bar) putLocked(text string) {
	_, _ = fmt.Fprintf(b.out, "\r%s%s", text, strings.Repeat(" ", max(0, b.shown-len(text))))
	b.shown = len(text)
}

func (b *bar) textLocked() string {
	const length = 30
	total := max(1, b.faults*b.requests)
	sent := b.done*b.requests + b.sent
	full := min(length, sent*length/total)
	text := fmt.Sprintf("[%s%s] %3d%%  %d/%d %s",
		strings.Repeat("#", full), strings.Repeat(".", length-full),
		sent*100/total, min(b.done+1, b.faults), b.faults, b.fault)
	// The last column stays empty: a line that fills it may wrap.
	return text[:min(len(text), max(0, b.width-1))]
}
