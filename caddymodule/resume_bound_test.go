// SPDX-License-Identifier: Apache-2.0

// What resume costs origins that break off all the time: no more connections than
// a bound allows, under load no more than the budget.

package caddymodule_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/caddymodule"
	"github.com/resetguard/caddy-resetguard/faultinject"
)

// TestSmallProgressIsPaused: origins that break off every 80 to 200 KiB are asked no
// more than forty times a second, and the download comes whole all the same.
func TestSmallProgressIsPaused(t *testing.T) {
	const leastPause = 25 * time.Millisecond
	want := faultinject.Bytes(1 << 20)
	for _, tc := range []struct{ name, directive, etag string }{
		{"by range", "reset_guard {to}", `"v1"`},
		{"by hash, in parts", "reset_guard {to} {\nfailover {\nresume verify\nattempts 20\n}\n}", ""},
		{"composed by hand", "reverse_proxy {to} {\ntransport reset_guard\n}", `"v1"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			origins := []*cutter{{}, {}, {}}
			for _, o := range origins {
				o.content, o.etag, o.cut = want, tc.etag, everyAnswer(80<<10, 200<<10, cutClose)
				o.start(t)
			}
			site := serve(t, replaceTo(tc.directive, origins))
			began := time.Now()
			_, got, err := get(t, newClient(t), site.url("/"))
			took := time.Since(began)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d of %d bytes and %v; %v", len(got), len(want), err, site.faults(t))
			}
			asked := answersOf(origins)
			// Neither the first answer nor the first resume waits.
			if least := time.Duration(asked-2) * leastPause; asked < 5 || took < least {
				t.Errorf("got %d answers in %s, want at least 5 in at least %s", asked, took, least)
			}
		})
	}
}

// TestSmallProgressIsBudgeted: under pressure a download that goes on by little
// asks the budget each time, one that goes on by much does not.
func TestSmallProgressIsBudgeted(t *testing.T) {
	want := faultinject.Bytes(8 << 20)
	for _, tc := range []struct {
		name  string
		after int
		whole bool
	}{
		{"small", 80 << 10, false},
		{"large", 1100 << 10, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			origins := []*cutter{{etag: `"v1"`}, {etag: `"v1"`}}
			for _, o := range origins {
				o.content, o.cut = want, everyAnswer(tc.after, tc.after, cutClose)
				o.start(t)
			}
			site := serve(t, replaceTo("reset_guard {to}", origins))
			caddymodule.OnlyInjectedPressureForTest(0.4)
			eventually(t, "pressure", func() bool { return caddymodule.PressureForTest() > 0.3 })
			_, got, err := get(t, newClient(t), site.url("/"))
			if whole := err == nil && bytes.Equal(got, want); whole != tc.whole {
				t.Fatalf("got %d of %d bytes and %v, want all of them: %v; %v", len(got), len(want), err, tc.whole, site.faults(t))
			}
			if tc.whole {
				return
			}
			eventually(t, "a line that says so", func() bool {
				lines := site.faults(t)
				return len(lines) > 0 && lines[len(lines)-1].text("reason") == "budget_used_up"
			})
			if n := answersOf(origins); n > 5 {
				t.Errorf("got %d answers, want no more than the budget allows", n)
			}
		})
	}
}

func replaceTo(directive string, origins []*cutter) string {
	return strings.ReplaceAll(directive, "{to}", addrs(origins))
}

func answersOf(origins []*cutter) (n int64) {
	for _, o := range origins {
		n += o.answers.Load()
	}
	return n
}
