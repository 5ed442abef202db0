// SPDX-License-Identifier: Apache-2.0

// Bounds the rate of log lines: a fault storm must not become a disk or log
// bill, and must still be counted to the last fault.

package diagnose

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// OtherUpstream is the Kind.Upstream of all kinds beyond BurstConfig.Kinds.
const OtherUpstream = "(other)"

// hintOther explains what the kinds beyond the limit have in common.
const hintOther = "More than 256 kinds of faults came at a time, or the names of origins are longer than 300 bytes: these are the ones beyond. Names that come from requests have no end; else look for what all origins share."

// maxUpstream is the longest name told apart: a DNS name has at most 253 bytes,
// a port 6, a socket path 108. A dynamic upstream may take its name from the
// request, so that without this limit a client could fill the table with
// megabytes.
const maxUpstream = 300

// Kind is what makes two log lines say the same thing.
type Kind struct {
	Zone     string
	Upstream string
	Cause    health.Cause
	Phase    health.Phase
	Side     health.Side
	Outcome  string // how the request ended
	Action   string // what was done about it: retry, resume, give up ...
}

// BurstConfig bounds the lines. Values below 1 stand for the defaults.
type BurstConfig struct {
	Lines  int           // lines of a kind written in full per window; default 10
	Window time.Duration // default 10 s
	Kinds  int           // kinds told apart; default 256
}

func (c BurstConfig) withDefaults() BurstConfig {
	if c.Lines < 1 {
		c.Lines = 10
	}
	if c.Window < 1 {
		c.Window = 10 * time.Second
	}
	if c.Kinds < 1 {
		c.Kinds = 256
	}
	return c
}

// Line is what a kind does not say of a line. Of several, the first of the most
// urgent ones stands for all.
type Line struct {
	Level int8 // more urgent lines have higher ones
	Fault health.Fault
}

// Summary is what one kind's unwritten lines come to.
type Summary struct {
	Kind
	Suppressed  int
	First, Last time.Time
	Level       int8 // of the most urgent line, like Hint
	Hint        string
}

// Burst lets the first lines of each kind through in full and counts the rest.
// At most (Kinds+1)*Lines lines pass per window, whatever clients do. It holds
// one record a kind, and one more, shared by all kinds beyond the limit; nobody
// can make it grow past that.
//
// It owns no goroutine: its owner calls Due about once a window, and Flush at
// the end.
type Burst struct {
	cfg BurstConfig

	mu    sync.Mutex
	kinds map[Kind]*window
}

// NewBurst makes a Burst.
func NewBurst(cfg BurstConfig) *Burst {
	return &Burst{cfg: cfg.withDefaults(), kinds: make(map[Kind]*window)}
}

// Allow tells whether a line of kind k is to be written now. If not, it is
// counted. It does not allocate for a kind it knows.
func (b *Burst) Allow(k Kind, l *Line, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.windowLocked(k, now)
	if w.over(b.cfg.Window, now) {
		w.restart(now)
	}
	if w.written < b.cfg.Lines {
		w.written++
		return true
	}
	w.running.add(l, now)
	return false
}

// Due appends to buf the sums of windows that have ended, largest first, and
// forgets them, and with them the kinds that have gone quiet.
func (b *Burst) Due(now time.Time, buf []Summary) []Summary {
	return b.collect(buf, func(w *window) (tally, bool) {
		quiet := w.over(b.cfg.Window, now)
		if quiet {
			w.restart(now)
		}
		return w.takeEnded(), quiet
	})
}

// Flush returns all sums, those of running windows too: for the end, when no Due
// will follow. The windows run on, so that an early Flush does not let a second
// burst through.
func (b *Burst) Flush(now time.Time) []Summary {
	return b.collect(nil, func(w *window) (tally, bool) {
		quiet := w.over(b.cfg.Window, now)
		w.endRunning()
		return w.takeEnded(), quiet
	})
}

// collect takes a tally from each window and drops the windows that are quiet.
func (b *Burst) collect(buf []Summary, take func(*window) (t tally, quiet bool)) []Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	had := len(buf)
	for k, w := range b.kinds {
		t, quiet := take(w)
		if t.n > 0 {
			if k.Upstream == OtherUpstream {
				t.hint = hintOther
			}
			buf = append(buf, Summary{
				Kind: k, Suppressed: t.n, First: t.first, Last: t.last, Level: t.level, Hint: t.hint,
			})
		}
		if quiet {
			delete(b.kinds, k)
		}
	}
	slices.SortFunc(buf[had:], largestFirst)
	return buf
}

// windowLocked finds or makes the window of k, or the shared one.
func (b *Burst) windowLocked(k Kind, now time.Time) *window {
	if w, ok := b.kinds[k]; ok {
		return w
	}
	other := Kind{Upstream: OtherUpstream}
	if _, shared := b.kinds[other]; len(k.Upstream) > maxUpstream || len(k.Zone) > maxUpstream || b.fullLocked(shared) {
		if k = other; shared {
			return b.kinds[k]
		}
	}
	// They may be pieces of a whole request.
	k.Upstream, k.Zone = strings.Clone(k.Upstream), strings.Clone(k.Zone)
	w := &window{start: now}
	b.kinds[k] = w
	return w
}

// fullLocked tells whether no further kind can be told apart; the shared record
// takes none of their room.
func (b *Burst) fullLocked(shared bool) bool {
	own := len(b.kinds)
	if shared {
		own--
	}
	return own >= b.cfg.Kinds
}

// window is the state of one kind.
type window struct {
	start   time.Time
	written int
	running tally // of the window that runs
	ended   tally // of earlier windows, waiting for Due
}

// over tells whether the window has ended. A time before its start is usually
// two goroutines out of step, and belongs to it; one further back than a whole
// window is a clock that was set back, and waiting for it to catch up could
// silence a kind for hours.
func (w *window) over(length time.Duration, now time.Time) bool {
	age := now.Sub(w.start)
	return age >= length || age < -length
}

func (w *window) restart(now time.Time) {
	w.endRunning()
	w.start, w.written = now, 0
}

func (w *window) endRunning() {
	w.ended.merge(w.running)
	w.running = tally{}
}

func (w *window) takeEnded() tally {
	t := w.ended
	w.ended = tally{}
	return t
}

// tally counts lines that were not written. Its texts are constants: it keeps no
// error.
type tally struct {
	n           int
	first, last time.Time
	level       int8
	hint        string
}

func (t *tally) add(l *Line, now time.Time) {
	u := tally{n: 1, first: now, last: now, level: l.Level}
	if t.n == 0 || l.Level > t.level {
		u.hint = Hint(l.Fault)
	}
	t.merge(u)
}

// merge keeps first before last even when times arrive out of order.
func (t *tally) merge(u tally) {
	if u.n == 0 {
		return
	}
	if t.n == 0 || u.first.Before(t.first) {
		t.first = u.first
	}
	if t.n == 0 || u.last.After(t.last) {
		t.last = u.last
	}
	if t.n == 0 || u.level > t.level {
		t.level, t.hint = u.level, u.hint
	}
	t.n += u.n
}

func largestFirst(a, b Summary) int {
	return cmp.Or(
		cmp.Compare(b.Suppressed, a.Suppressed),
		cmp.Compare(a.Zone, b.Zone),
		cmp.Compare(a.Upstream, b.Upstream),
		cmp.Compare(a.Cause, b.Cause),
		cmp.Compare(a.Phase, b.Phase),
		cmp.Compare(a.Action, b.Action),
	)
}
