// SPDX-License-Identifier: Apache-2.0

// Requests that bring origins down, and calls whose client set the deadline.

package caddymodule

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/resetguard/caddy-resetguard/health"
)

func TestBlameOfARequestThatBreaksEveryOrigin(t *testing.T) {
	reset := func(p health.Phase) health.Fault {
		return health.Fault{Cause: health.Reset, Phase: p, Side: health.SideUpstream, Weight: 1, Safety: health.IfIdempotent}
	}
	refused := health.Fault{Cause: health.Refused, Phase: health.PhaseDial, Side: health.SideUpstream, Weight: 1, Safety: health.Unsent}
	stale := reset(health.PhaseStale)
	stale.Weight = 0.25
	for name, c := range map[string]struct {
		faults []health.Fault
		trial  bool // the last
		want   []float64
	}{
		"resets":                    {[]health.Fault{reset("wait"), reset("wait"), reset("headers")}, false, []float64{1, .25, .25}},
		"a trial":                   {[]health.Fault{reset("wait"), reset("wait")}, true, []float64{1, 0}},
		"a trial comes first":       {[]health.Fault{reset("wait")}, true, []float64{1}},
		"refusals":                  {[]health.Fault{refused, refused}, true, []float64{1, 1}},
		"a refusal, then a reset":   {[]health.Fault{refused, reset("wait")}, true, []float64{1, 1}},
		"a reset, then a refusal":   {[]health.Fault{reset("wait"), refused}, true, []float64{1, 1}},
		"a stale one, then a reset": {[]health.Fault{stale, reset("wait"), reset("wait")}, false, []float64{.25, 1, .25}},
	} {
		ex := new(exchange)
		for i, f := range c.faults {
			a := &attempt{ex: ex, trial: c.trial && i == len(c.faults)-1}
			if got := a.blame(&f).Weight; got != c.want[i] {
				t.Errorf("%s: fault %d: got weight %v, want %v", name, i, got, c.want[i])
			}
		}
	}
}

func TestDeadlineOfAGRPCCallIsNoFault(t *testing.T) {
	for field, want := range map[string]float64{"Grpc-Timeout": 0, "X-Timeout": 1} {
		a := &attempt{transport: new(Transport), out: httptest.NewRequest("POST", "/", nil), client: context.Background(), began: time.Now()}
		a.out.Header.Set(field, "1S")
		err := http2.StreamError{StreamID: 1, Code: http2.ErrCodeCancel}
		if f := a.classify(err, health.Evidence{Connected: true}); f.Weight != want || f.Cause != health.Reset {
			t.Errorf("%s: got %s of weight %v, want %s of %v", field, f.Cause, f.Weight, health.Reset, want)
		}
		if f := a.classify(http2.StreamError{StreamID: 1, Code: http2.ErrCodeInternal}, health.Evidence{Connected: true}); f.Weight != 1 {
			t.Errorf("%s: INTERNAL_ERROR has weight %v, want 1", field, f.Weight)
		}
	}
}
