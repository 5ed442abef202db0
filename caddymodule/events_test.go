// SPDX-License-Identifier: Apache-2.0

// Events, as a subscribed handler gets them.

package caddymodule_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func init() { caddy.RegisterModule(eventRecorder{}) }

// recorded are the events that came, held what their handlers wait for.
var recorded struct {
	sync.Mutex
	events []caddy.Event
	held   chan bool // nil: they do not wait
}

// eventRecorder keeps the events that it is subscribed to.
type eventRecorder struct{}

func (eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*eventRecorder) Handle(ctx context.Context, e caddy.Event) error {
	recorded.Lock()
	recorded.events = append(recorded.events, e)
	held := recorded.held
	recorded.Unlock()
	if held == nil {
		return nil
	}
	select {
	case <-held:
	case <-ctx.Done():
	}
	return nil
}

// recordEvents returns the global option that subscribes to all our events.
func recordEvents(tb testing.TB, held chan bool) string {
	recorded.Lock()
	recorded.events, recorded.held = nil, held
	recorded.Unlock()
	return "events {\non reset_guard.ejected recorder\non reset_guard.restored recorder\non reset_guard.pool_fault recorder\n}"
}

func eventsSoFar() []caddy.Event {
	recorded.Lock()
	defer recorded.Unlock()
	return slices.Clone(recorded.events)
}

// awaitEvents waits for n events.
func awaitEvents(tb testing.TB, n int) []caddy.Event {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%d events", n), func() bool { return len(eventsSoFar()) >= n })
	events := eventsSoFar()
	if len(events) > n {
		tb.Fatalf("got %d events, want %d", len(events), n)
	}
	return events
}

func wantData(tb testing.TB, e caddy.Event, name string, want map[string]any) {
	tb.Helper()
	expect(tb, "event", e.Name(), name)
	for key, value := range want {
		if e.Data[key] != value {
			tb.Errorf("%s: %s is %v, want %v", name, key, e.Data[key], value)
		}
	}
	if e.Origin() == nil || e.Origin().CaddyModule().ID != "reset_guard" {
		tb.Errorf("%s: comes from %v, want the app", name, e.Origin())
	}
}

func TestEventsOfAnUpstream(t *testing.T) {
	leaveNothing(t)
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest})
	good := addresses(t, 2)
	s := serveAdmin(t, recordEvents(t, nil), "reset_guard "+join(bad.Addr(), good[0], good[1]))
	eventually(t, "the ejection", func() bool {
		s.get(t, "/")
		return len(eventsSoFar()) > 0
	})
	ejected := awaitEvents(t, 1)[0]
	wantData(t, ejected, "reset_guard.ejected", map[string]any{
		"zone": bad.Addr(), "upstream": bad.Addr(), "from": "healthy", "to": "ejected", "reason": "failing", "cause": "reset",
		"failure_rate": 1.0, "peers_failure_rate": 0.0, "times": 1,
	})
	if n, _ := ejected.Data["requests"].(int); n < 5 {
		t.Errorf("requests is %v, want 5 or more", ejected.Data["requests"])
	}
	if score, _ := ejected.Data["score"].(float64); score < 12 {
		t.Errorf("score is %v, want 12 or more", ejected.Data["score"])
	}
	if until, err := time.Parse(time.RFC3339, fmt.Sprint(ejected.Data["until"])); err != nil || time.Until(until) > 7*time.Second {
		t.Errorf("until is %v, want some five seconds from now", ejected.Data["until"])
	}
	if hint, _ := ejected.Data["hint"].(string); hint == "" {
		t.Error("got no hint")
	}
	s.ask(t, http.MethodPost, upstreams+"/restore?upstream="+bad.Addr(), "")
	wantData(t, awaitEvents(t, 2)[1], "reset_guard.restored", map[string]any{
		"upstream": bad.Addr(), "from": "ejected", "to": "healthy", "reason": "manual",
	})
}

func TestEventOfAPoolFault(t *testing.T) {
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.Status503})
	s := serveAdmin(t, recordEvents(t, nil), "reset_guard "+bad.Addr())
	eventually(t, "the pool fault", func() bool {
		s.get(t, "/")
		return len(eventsSoFar()) > 0
	})
	wantData(t, awaitEvents(t, 1)[0], "reset_guard.pool_fault", map[string]any{
		"zone": bad.Addr(), "reason": "pool_fault", "cause": "status", "failure_rate": 1.0,
	})
	lines := s.told(t, "the only upstream left fails")
	if len(lines) != 1 || !strings.Contains(lines[0].text("hint"), "itself answered 503") || lines[0]["upstream_status"] != 503.0 || lines[0]["upstreams"] != 1.0 {
		t.Errorf("got %v, want one line with the hint of its fault", lines)
	}
	if u := one(t, s.standings(t, "")); !u.PoolFault || u.State != "healthy" {
		t.Errorf("got %+v, want a pool fault with nobody ejected", u)
	}
	if m := s.metrics(t); m[fmt.Sprintf("reset_guard_pool_fault{zone=%q}", bad.Addr())] != 1 {
		t.Error("the gauge does not tell of the pool fault")
	}
}

// A handler that hangs holds up neither requests nor orders nor a reload, and
// what does not fit in the queue is counted.
func TestEventHandlerThatHangs(t *testing.T) {
	leaveNothing(t)
	held := make(chan bool)
	addrs := addresses(t, 2)
	s := serveAdmin(t, recordEvents(t, held), "reset_guard "+join(addrs...))
	begin := time.Now()
	const rounds = 200 // two events each
	for range rounds {
		for _, order := range []string{"/eject", "/restore"} {
			s.ask(t, http.MethodPost, upstreams+order+"?upstream="+addrs[0], "")
		}
	}
	t.Logf("%s an order, with a handler that hangs", time.Since(begin)/(2*rounds))
	expect(t, "status", s.get(t, "/").status, http.StatusOK)
	expect(t, "events under way", len(eventsSoFar()), 1)
	// One is with the handler, 256 wait.
	expect(t, "dropped", s.metrics(t)["reset_guard_events_dropped_total"], 2*rounds-257)
	dropped := 0
	for _, l := range s.lines(t) {
		if l.text("msg") == "events dropped" {
			dropped++
		}
	}
	expect(t, "lines about that", dropped, 1)

	begin = time.Now()
	s.reload(t, "reset_guard "+join(addrs...))
	if took := time.Since(begin); took > patience {
		t.Errorf("the reload took %s", took)
	}
	close(held)
	recordEvents(t, nil)
	s.ask(t, http.MethodPost, upstreams+"/eject?upstream="+addrs[0], "")
	wantData(t, awaitEvents(t, 1)[0], "reset_guard.ejected", map[string]any{"upstream": addrs[0]})
}

// A configuration with fewer upstreams lets those return that may not be out any
// more, also if that is found before all of Caddy has started.
func TestEventsOfAReload(t *testing.T) {
	t.Run("at once", func(t *testing.T) { reloadWithFewer(t, func(*adminServer) {}) })
	t.Run("after another configuration", func(t *testing.T) {
		reloadWithFewer(t, func(s *adminServer) { s.reload(t, "respond ok") })
	})
}

func reloadWithFewer(t *testing.T, between func(*adminServer)) {
	leaveNothing(t)
	bad := []string{
		startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest}).Addr(),
		startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterRequest}).Addr(),
	}
	site := "reset_guard %s {\neject {\nbase 1h\n}\n}"
	// The global option keeps what is known while no site is guarded.
	s := serveAdmin(t, recordEvents(t, nil)+"\nreset_guard", fmt.Sprintf(site, join(append(addresses(t, 2), bad...)...)))
	eventually(t, "the ejection of two of four", func() bool {
		s.get(t, "/")
		return len(eventsSoFar()) == 2
	})
	recordEvents(t, nil)
	between(s)
	// One of two may be out: the other one returns.
	s.reload(t, fmt.Sprintf(site, join(bad...)))
	wantData(t, awaitEvents(t, 1)[0], "reset_guard.restored", map[string]any{"reason": "max_share", "from": "ejected", "to": "healthy"})
}
