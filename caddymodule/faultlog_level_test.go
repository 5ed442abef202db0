// SPDX-License-Identifier: Apache-2.0

// Who has to act on a fault, by the level of its line.

package caddymodule

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

func TestLevelOf(t *testing.T) {
	gone := health.Fault{Cause: health.ClientGone, Phase: health.PhaseWait}
	for name, tc := range map[string]struct {
		fault   health.Fault
		elapsed time.Duration
		action  failover.Action
		outcome string
		want    zapcore.Level
	}{
		"client left":                        {gone, diagnose.LongWait - 1, failover.GaveUp, outcomeClientGone, zapcore.DebugLevel},
		"client left a silent origin":        {gone, diagnose.LongWait, failover.GaveUp, outcomeClientGone, zapcore.WarnLevel},
		"client left in the response":        {health.Fault{Cause: health.ClientGone, Phase: health.PhaseBody}, time.Hour, failover.GaveUp, outcomeAborted, zapcore.DebugLevel},
		"the request cannot be sent":         {health.Fault{Cause: health.Protocol, Side: health.SideClient}, 0, failover.GaveUp, outcomeError, zapcore.DebugLevel},
		"mended":                             {health.Fault{Cause: health.Reset}, 0, failover.Retried, outcomeAnswered, zapcore.InfoLevel},
		"mended, does not mend itself":       {health.Fault{Cause: health.TLSExpired, Trip: true}, 0, failover.Retried, outcomeAnswered, zapcore.WarnLevel},
		"retried, then another's error":      {health.Fault{Cause: health.Reset}, 0, failover.Retried, outcomeError, zapcore.InfoLevel},
		"the client got an error":            {health.Fault{Cause: health.Reset}, 0, failover.GaveUp, outcomeError, zapcore.ErrorLevel},
		"the client's response broke off":    {health.Fault{Cause: health.Reset}, 0, failover.GaveUp, outcomeAborted, zapcore.ErrorLevel},
		"the origin's own error went out":    {health.Fault{Cause: health.Status}, 0, failover.GaveUp, outcomeAnswered, zapcore.WarnLevel},
		"nobody knows what the client got":   {health.Fault{Cause: health.Reset}, 0, failover.GaveUp, outcomePending, zapcore.WarnLevel},
		"does not mend itself, and an error": {health.Fault{Cause: health.TLSName, Trip: true}, 0, failover.Retried, outcomeError, zapcore.ErrorLevel},
	} {
		t.Run(name, func(t *testing.T) {
			tc.fault.Elapsed = tc.elapsed
			if got := levelOf(tc.fault, tc.action, tc.outcome); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// silentOrigin never answers.
type silentOrigin struct{}

func (silentOrigin) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A client that leaves after a long wait for a silent origin is told as what it
// is: the origin's fault.
func TestSilentOriginIsWarnedOf(t *testing.T) {
	for waits, want := range map[time.Duration]zapcore.Level{
		diagnose.LongWait - time.Millisecond: zapcore.DebugLevel,
		diagnose.LongWait:                    zapcore.WarnLevel,
	} {
		t.Run(waits.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logged := observer.New(zapcore.DebugLevel)
				log := &faultLog{logger: zap.New(core), burst: diagnose.NewBurst(diagnose.BurstConfig{})}
				tr := &Transport{inner: silentOrigin{}, policy: failover.DefaultPolicy(), faults: log, site: &site{app: &App{registry: newRegistry()}}}
				ctx, leave := context.WithCancel(context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
				defer leave()
				time.AfterFunc(waits, leave)
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://origin.test/", nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tr.RoundTrip(req); err == nil {
					t.Fatal("a silent origin has answered")
				}
				lines := logged.All()
				if len(lines) != 1 {
					t.Fatalf("got %d lines, want 1", len(lines))
				}
				if got := lines[0].Level; got != want {
					t.Errorf("level: got %v, want %v: %v", got, want, lines[0].ContextMap())
				}
				side := map[zapcore.Level]string{zapcore.DebugLevel: "client", zapcore.WarnLevel: "upstream"}[want]
				if got := lines[0].ContextMap()["side"]; got != side {
					t.Errorf("side: got %v, want %s", got, side)
				}
				if got := lines[0].ContextMap()["elapsed"]; got != waits {
					t.Errorf("elapsed: got %v, want %v", got, waits)
				}
			})
		})
	}
}

// A sum has the level, the side and the hint of the lines that it stands for.
func TestSumsAreAsUrgentAsTheirLines(t *testing.T) {
	for name, f := range map[string]health.Fault{
		"silent origin": {Cause: health.ClientGone, Phase: health.PhaseWait, Side: health.SideClient, Elapsed: diagnose.LongWait},
		"lasting fault": {Cause: health.TLSExpired, Phase: health.PhaseTLS, Side: health.SideUpstream, Trip: true},
		"maintenance":   {Cause: health.Status, Phase: health.PhaseHeaders, Side: health.SideUpstream, StatusCode: http.StatusServiceUnavailable},
		"unsendable":    {Cause: health.Protocol, Phase: health.PhaseWrite, Side: health.SideClient},
	} {
		t.Run(name, func(t *testing.T) {
			core, logged := observer.New(zapcore.DebugLevel)
			log := &faultLog{logger: zap.New(core), burst: diagnose.NewBurst(diagnose.BurstConfig{Lines: 1})}
			rec := failover.Record{Fault: f, Upstream: "a", Decision: failover.Decision{Action: failover.Retried}}
			end := ending{outcome: outcomeAnswered}
			for range 3 {
				if c := log.admit("", rec, end, time.Now()); c != nil {
					c.Write(faultFields("", rec, end, time.Now())...)
				}
			}
			log.summaries(log.burst.Flush(time.Now()))
			lines := logged.All()
			if len(lines) != 2 {
				t.Fatalf("got %d lines, want one and a sum", len(lines))
			}
			line, sum := lines[0].ContextMap(), lines[1].ContextMap()
			if lines[1].Level != lines[0].Level || sum["side"] != line["side"] || sum["hint"] != diagnose.Hint(f) || sum["count"] != int64(2) {
				t.Errorf("got a sum at %v, %v, want two lines as at %v, %v", lines[1].Level, sum, lines[0].Level, line)
			}
		})
	}
}
