// SPDX-License-Identifier: Apache-2.0

// rate_limit auto in front of origins that can do so much and no more.

package caddymodule_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// All traffic comes from one address, and is twice what the origins can do: they
// do as much as without limits. Two runs on a busy machine differ by more than what
// is looked for, so the long form compares the medians of several, taken in turns; the
// simulation of package ratelimit looks for it in virtual time.
func TestAutoLeavesOneAddressEverything(t *testing.T) {
	rounds, long := 1, 3*time.Second
	if os.Getenv("RESET_GUARD_LONG") != "" {
		rounds, long = 5, 15*time.Second
	}
	shares := make(map[string][]float64)
	for range rounds {
		for _, limit := range []string{"off", "auto"} {
			t.Run(limit, func(t *testing.T) {
				origins, s, client := startCapped(t, "reset_guard %s {\nrate_limit "+limit+"\n}")
				quiet(t, 0)
				load{rate: cappedRate / 2, long: time.Second}.run(t, client, s)
				l := load{rate: 2 * cappedRate, settle: 2 * time.Second, long: long}
				r := l.run(t, client, s)
				share := float64(r.good) / possible(origins, l.long)
				shares[limit] = append(shares[limit], share)
				t.Logf("%.1f %% of what is possible, %d refused, p99 %v", 100*share, r.refused, r.p99())
			})
		}
	}
	auto, off := median(shares["auto"]), median(shares["off"])
	t.Logf("medians: %.1f %% of what is possible with auto, %.1f %% with off", 100*auto, 100*off)
	if rounds > 1 && auto < off-0.01 {
		t.Errorf("with auto %.1f %% of what is possible, want as much as with off: %.1f %%", 100*auto, 100*off)
	}
}

// An abuser asks for ten times what all others do, and for more than there is,
// with no limit configured.
func TestAutoProtectsTheOthers(t *testing.T) {
	// A queue that is full for a moment refuses anybody, and a machine that is busy with
	// other tests makes it full. Without limits the others would get less than half.
	long, want := 4*time.Second, 0.7
	if os.Getenv("RESET_GUARD_LONG") != "" {
		long, want = 20*time.Second, 0.99
	}
	a, b := newCapped(t), newCapped(t)
	s := serveConfig(t, "", trusting, "reset_guard "+join(a.addr, b.addr))
	quiet(t, 0)
	tr := &http.Transport{MaxIdleConnsPerHost: 2000, MaxIdleConns: 2000, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	c := &crowd{client: &http.Client{Transport: tr, Timeout: patienceOfVisitors}, url: s.url("/")}
	for i := range 40 {
		c.people = append(c.people, &person{addr: net.IPv4(198, 18, byte(i), 1).String()})
	}
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for k, p := range c.people {
		all.Go(func() { c.visit(ctx, p, time.Duration(k)*time.Second/time.Duration(len(c.people))) })
	}
	flood := abuser{next: func(i int, addr string) (string, string, string) { return addr, fmt.Sprint("bot ", i), "" }}
	all.Go(func() {
		pass(ctx, 4*time.Second) // pressure has risen by then
		c.count.Store(true)
		pass(ctx, long)
		c.count.Store(false)
	})
	sent, passed, _ := c.attack(ctx, &flood, sharedAddress, 400, 4*time.Second+long)
	leave()
	all.Wait()
	asked, served, worst := c.result(false)
	t.Logf("others: %d of %d, the worst %.0f %%; the abuser: %d of %d", served, asked, 100*worst, passed, sent)
	if asked < 100 || float64(served) < want*float64(asked) {
		t.Errorf("of the others' requests %d of %d were served, want %.0f %%", served, asked, 100*want)
	}
}

// median orders the values.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// Origins that have answered with nothing but errors have shown nothing of what they can do.
func TestErrorsTeachNoCapacity(t *testing.T) {
	leaveNothing(t)
	s := serveAdmin(t, "", "reset_guard "+origin(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	for began := time.Now(); time.Since(began) < time.Second; {
		s.get(t, "/")
	}
	if body := s.ask(t, http.MethodGet, "/reset_guard/limits", "").body; !strings.Contains(body, `"capacity":200,`) {
		t.Errorf("after nothing but 500: got %s", body)
	}
}
