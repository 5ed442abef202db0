// SPDX-License-Identifier: Apache-2.0

package diagnose

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

var (
	t0    = time.Unix(1_700_000_000, 0)
	kindA = Kind{Upstream: "10.0.0.1:80", Cause: health.Reset, Phase: health.PhaseWait, Action: "retry"}
	kindB = Kind{Upstream: "10.0.0.1:80", Cause: health.Reset, Phase: health.PhaseBody, Action: "retry"}
)

// lineA is what the tests' lines say.
var lineA = &Line{Level: 1, Fault: health.Fault{Cause: health.Reset, Phase: health.PhaseWait}}

// summed is a sum of such lines.
func summed(k Kind, n int, first, last time.Time) Summary {
	return Summary{Kind: k, Suppressed: n, First: first, Last: last, Level: 1, Hint: Hint(lineA.Fault)}
}

// The most urgent of the lines left out stands for all, and nothing is kept of
// errors.
func TestBurstKeepsTheMostUrgentLine(t *testing.T) {
	gone := health.Fault{Cause: health.ClientGone, Phase: health.PhaseWait}
	silent := gone
	silent.Elapsed = LongWait
	b := NewBurst(BurstConfig{Lines: 1, Window: time.Second})
	k := Kind{Upstream: "a", Cause: health.ClientGone, Phase: health.PhaseWait}
	for i, l := range []*Line{{0, gone}, {-1, gone}, {1, silent}, {0, gone}, {1, gone}} {
		b.Allow(k, l, t0.Add(time.Duration(i)*time.Millisecond))
	}
	got := b.Due(t0.Add(time.Second), nil)
	if len(got) != 1 || got[0].Suppressed != 4 || got[0].Level != 1 || got[0].Hint != Hint(silent) {
		t.Errorf("got %+v, want 4 lines, told as the silent origin's", got)
	}
	b.Allow(k, &Line{2, silent}, t0.Add(time.Hour))
	b.Allow(k, &Line{-1, gone}, t0.Add(time.Hour))
	if got = b.Flush(t0.Add(time.Hour)); len(got) != 1 || got[0].Level != -1 || got[0].Hint != Hint(gone) {
		t.Errorf("a window later: got %+v, want nothing of the first one", got)
	}
}

func TestBurstTellsWhatTheRestIs(t *testing.T) {
	b := NewBurst(BurstConfig{Lines: 1, Window: time.Second, Kinds: 1})
	b.Allow(kindA, lineA, t0)
	for range 3 {
		b.Allow(kindB, &Line{Level: 2, Fault: lineA.Fault}, t0)
	}
	got := b.Due(t0.Add(time.Second), nil)
	if len(got) != 1 || got[0].Upstream != OtherUpstream || got[0].Level != 2 || got[0].Hint != hintOther {
		t.Errorf("got %+v, want the rest at its own level, with its own hint", got)
	}
}

func TestBurstSteps(t *testing.T) {
	type step struct {
		name  string
		at    time.Duration
		kind  Kind
		times int
		want  int // how many pass
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"ten of a kind", []step{
			{"burst", 0, kindA, 25, 10},
			{"another kind has its own", 0, kindB, 3, 3},
			{"just before the end", 10*time.Second - 1, kindA, 5, 0},
			{"exactly one window later", 10 * time.Second, kindA, 12, 10},
		}},
		{"slow trickle passes", []step{
			{"first", 0, kindA, 1, 1},
			{"later", 9 * time.Second, kindA, 9, 9},
			{"window is fixed, not sliding", 10 * time.Second, kindA, 11, 10},
		}},
		{"clock a little behind", []step{
			{"burst", 0, kindA, 10, 10},
			{"goroutines out of step", -time.Millisecond, kindA, 5, 0},
			{"and back", time.Millisecond, kindA, 5, 0},
		}},
		{"clock set back an hour", []step{
			{"burst", 0, kindA, 15, 10},
			{"new window", -time.Hour, kindA, 15, 10},
			{"which ends in time", -time.Hour + 10*time.Second, kindA, 15, 10},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := NewBurst(BurstConfig{})
			for _, s := range tc.steps {
				if got := allowed(b, s.kind, s.times, t0.Add(s.at)); got != s.want {
					t.Fatalf("%s: got %d of %d allowed, want %d", s.name, got, s.times, s.want)
				}
			}
		})
	}
}

func allowed(b *Burst, k Kind, times int, now time.Time) (n int) {
	for range times {
		if b.Allow(k, lineA, now) {
			n++
		}
	}
	return n
}

func TestBurstDue(t *testing.T) {
	b := NewBurst(BurstConfig{Lines: 2, Window: time.Second})
	allowed(b, kindA, 5, t0)
	b.Allow(kindA, lineA, t0.Add(300*time.Millisecond))
	allowed(b, kindB, 2, t0)
	buf := make([]Summary, 0, 8)

	if got := b.Due(t0.Add(999*time.Millisecond), buf); len(got) != 0 {
		t.Errorf("window runs: got %v, want nothing", got)
	}
	got := b.Due(t0.Add(time.Second), buf)
	want := summed(kindA, 4, t0, t0.Add(300*time.Millisecond))
	if len(got) != 1 || got[0] != want {
		t.Errorf("window over: got %v, want only %v", got, want)
	}
	if got := b.Due(t0.Add(time.Second), buf); len(got) != 0 {
		t.Errorf("second call: got %v, want nothing", got)
	}
	if n := len(b.kinds); n != 0 {
		t.Errorf("quiet kinds: got %d kept, want 0", n)
	}
}

func TestBurstDueKeepsSumsOfEarlierWindows(t *testing.T) {
	b := NewBurst(BurstConfig{Lines: 1, Window: time.Second})
	for second := range 3 { // nobody calls Due for three windows
		allowed(b, kindA, 4, t0.Add(time.Duration(second)*time.Second))
	}
	prefix := Summary{Suppressed: 99}
	got := b.Due(t0.Add(2500*time.Millisecond), []Summary{prefix})
	want := summed(kindA, 6, t0, t0.Add(time.Second))
	if len(got) != 2 || got[0] != prefix || got[1] != want {
		t.Errorf("running third window: got %v, want %v appended", got, want)
	}
	got = b.Due(t0.Add(-time.Hour), nil) // the clock was set back: the window counts as over
	if len(got) != 1 || got[0].Suppressed != 3 {
		t.Errorf("clock set back: got %v, want the third window's 3", got)
	}
}

func TestBurstDueLargestFirst(t *testing.T) {
	b := NewBurst(BurstConfig{Lines: 1, Window: time.Second})
	allowed(b, kindB, 3, t0)
	allowed(b, kindA, 9, t0)
	got := b.Due(t0.Add(time.Minute), nil)
	if len(got) != 2 || got[0].Kind != kindA || got[1].Kind != kindB {
		t.Errorf("got %v, want kind A before kind B", got)
	}
}

func TestBurstFlush(t *testing.T) {
	b := NewBurst(BurstConfig{Lines: 1, Window: time.Second})
	allowed(b, kindA, 4, t0)
	got := b.Flush(t0.Add(time.Millisecond))
	if len(got) != 1 || got[0].Suppressed != 3 {
		t.Errorf("running window: got %v, want 3 suppressed", got)
	}
	if b.Allow(kindA, lineA, t0.Add(2*time.Millisecond)) {
		t.Error("Flush let a second burst through within the window")
	}
	if got := b.Flush(t0.Add(time.Hour)); len(got) != 1 || got[0].Suppressed != 1 || len(b.kinds) != 0 {
		t.Errorf("at the end: got %v and %d kinds, want 1 suppressed and none", got, len(b.kinds))
	}
}

func TestBurstIsBounded(t *testing.T) {
	b := NewBurst(BurstConfig{})
	passed := 0
	for i := range 5000 {
		k := kindA
		k.Upstream = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
		passed += allowed(b, k, 2, t0)
	}
	if len(b.kinds) != 257 {
		t.Errorf("got %d records, want 256 and the shared one", len(b.kinds))
	}
	if want := 256*2 + 10; passed != want {
		t.Errorf("got %d lines, want %d", passed, want)
	}
	got := b.Flush(t0)
	if want := 2*(5000-256) - 10; len(got) != 1 || got[0].Upstream != OtherUpstream || got[0].Suppressed != want {
		t.Errorf("got %v, want %d of %s", got, want, OtherUpstream)
	}
}

func TestBurstSharesOverlongNames(t *testing.T) {
	b := NewBurst(BurstConfig{Kinds: 2})
	for i := range 100 {
		b.Allow(Kind{Upstream: strings.Repeat("x", maxUpstream) + fmt.Sprint(i)}, lineA, t0)
	}
	if _, ok := b.kinds[Kind{Upstream: OtherUpstream}]; !ok || len(b.kinds) != 1 {
		t.Errorf("got %d records, want only the shared one", len(b.kinds))
	}
	b.Allow(kindA, lineA, t0)
	b.Allow(kindB, lineA, t0)
	if len(b.kinds) != 3 {
		t.Errorf("got %d records, want the shared one to take no room from the others", len(b.kinds))
	}
}

func TestBurstAllowDoesNotAllocate(t *testing.T) {
	b := NewBurst(BurstConfig{})
	b.Allow(kindA, lineA, t0)
	now := t0
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(100 * time.Millisecond)
		b.Allow(kindA, lineA, now)
	}); n != 0 {
		t.Errorf("got %v allocs per call, want 0", n)
	}
}

func TestBurstCountsEveryLine(t *testing.T) {
	const workers, each = 8, 500
	b := NewBurst(BurstConfig{Lines: 3, Window: time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	passed, suppressed := 0, 0
	for range workers {
		wg.Go(func() {
			n, sums := 0, []Summary(nil)
			for i := range each {
				now := t0.Add(time.Duration(i) * 10 * time.Microsecond)
				n += allowed(b, kindA, 1, now)
				sums = b.Due(now, sums)
			}
			mu.Lock()
			defer mu.Unlock()
			passed += n
			for _, s := range sums {
				suppressed += s.Suppressed
			}
		})
	}
	wg.Wait()
	for _, s := range b.Flush(t0.Add(time.Hour)) {
		suppressed += s.Suppressed
	}
	if passed+suppressed != workers*each {
		t.Errorf("got %d passed and %d suppressed, want %d together", passed, suppressed, workers*each)
	}
}

func BenchmarkBurstAllow(b *testing.B) {
	burst := NewBurst(BurstConfig{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			burst.Allow(kindA, lineA, t0)
		}
	})
}
