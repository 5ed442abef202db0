// SPDX-License-Identifier: Apache-2.0

// How changes of origins are told: to whom, with which figures, and what to do.

package caddymodule

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/health"
)

func TestHowTransitionsAreTold(t *testing.T) {
	refused := health.Fault{Cause: health.Refused, Phase: health.PhaseDial, Side: health.SideUpstream, Err: errors.New("connection refused")}
	bad := health.Fault{Cause: health.Status, Phase: health.PhaseHeaders, Side: health.SideUpstream, StatusCode: 503}
	alert := health.Fault{Cause: health.Protocol, Phase: health.PhaseWait, Err: errors.New(`malformed HTTP response "\x15\x03"`)}
	until := time.Unix(1_800_000_000, 0)
	const healthy, ejected, probing, draining = health.Healthy, health.Ejected, health.Probing, health.Draining
	for name, tc := range map[string]struct {
		e     health.Transition
		level zapcore.Level
		msg   string
		hint  string // part of it
		with  string // fields besides zone, upstreams and ejected
	}{
		"one of several ejected": {
			health.Transition{Addr: "a", To: ejected, Reason: health.ReasonFailing, Fault: bad, Level: 1, Until: until, Upstreams: 3, Out: 1},
			zapcore.WarnLevel, "upstream ejected", "The origin itself answered 503",
			"cause failure_rate from hint peers_failure_rate phase reason requests score side times to until upstream upstream_status",
		},
		"ejected for what only its error tells": {
			health.Transition{Addr: "a", To: ejected, Reason: health.ReasonFailing, Fault: alert, Level: 1, Upstreams: 3, Out: 1},
			zapcore.WarnLevel, "upstream ejected", "Write https:// before this upstream",
			"cause error failure_rate from hint peers_failure_rate phase reason requests score side times to upstream",
		},
		"a slow one": {
			health.Transition{Addr: "a", To: ejected, Reason: health.ReasonSlow, Slow: true, Latency: time.Second, PeersMedian: time.Millisecond, Upstreams: 3, Out: 1},
			zapcore.WarnLevel, "upstream ejected", "far more slowly",
			"from hint latency peers_median peers_slow_rate reason requests score slow_rate to upstream",
		},
		"a slow trial": {
			health.Transition{Addr: "a", From: probing, To: ejected, Reason: health.ReasonTrialFailed, Slow: true, Level: 2, Upstreams: 3, Out: 1},
			zapcore.WarnLevel, "upstream ejected", "far more slowly",
			"from hint latency peers_median peers_slow_rate reason requests score slow_rate times to upstream",
		},
		"kept": {
			health.Transition{Addr: "a", Reason: health.ReasonMaxShare, Fault: refused, Upstreams: 3, Out: 1},
			zapcore.WarnLevel, "upstream would be ejected, but too many are", "max_share",
			"cause error failure_rate from hint peers_failure_rate phase reason requests score side to upstream",
		},
		"returned": {
			health.Transition{Addr: "a", From: probing, Reason: health.ReasonTrialPassed, Score: 13, Rate: 1, Level: 2, Lasted: time.Minute, Trials: 3, Upstreams: 3},
			zapcore.InfoLevel, "upstream restored", "",
			"from out_for reason times to trials upstream",
		},
		"returned, but not mended": {
			health.Transition{Addr: "a", From: ejected, Reason: health.ReasonMaxShare, Score: 13, Lasted: time.Minute, Upstreams: 3},
			zapcore.WarnLevel, "upstream restored", "It has not recovered",
			"from hint out_for reason to upstream",
		},
		"all alike": {
			health.Transition{Addr: "a", Reason: health.ReasonPoolFault, Fault: refused, Rate: .9, Own: 1, Upstreams: 3, Out: 1},
			zapcore.ErrorLevel, "all upstreams fail alike", "No further upstream is ejected. Once half of all attempts fail, retries are limited. The latest fault: Nothing listens",
			"cause error failure_rate hint phase reason requests side upstream upstream_failure_rate",
		},
		"all alike, over": {
			health.Transition{Reason: health.ReasonPoolRecovered, Lasted: time.Minute, Upstreams: 3},
			zapcore.InfoLevel, "upstreams no longer fail alike", "",
			"failure_rate lasted reason requests",
		},
		"the only one": {
			health.Transition{Addr: "a", Reason: health.ReasonPoolFault, Alone: true, Fault: refused, Rate: .9, Own: 1, Upstreams: 2, Out: 1},
			zapcore.ErrorLevel, "the only upstream left fails", diagnose.Hint(refused),
			"cause error failure_rate hint phase reason requests side upstream upstream_failure_rate",
		},
		"the only one, over": {
			health.Transition{Reason: health.ReasonPoolRecovered, Alone: true, Lasted: time.Minute, Upstreams: 1},
			zapcore.InfoLevel, "the only upstream left fails no longer", "",
			"failure_rate lasted reason requests",
		},
		"ordered out": {
			health.Transition{Addr: "a", To: ejected, Reason: health.ReasonManual, Score: 5, Level: 1, Upstreams: 2, Out: 1},
			zapcore.InfoLevel, "upstream ejected", "upstreams/restore?upstream=ADDRESS",
			"from hint reason to upstream",
		},
		"ordered out for a time": {
			health.Transition{Addr: "a", To: ejected, Reason: health.ReasonManual, Until: until, Upstreams: 2, Out: 1},
			zapcore.InfoLevel, "upstream ejected", "returns by trials",
			"from hint reason to until upstream",
		},
		"the last one ordered out": {
			health.Transition{Addr: "a", To: draining, Reason: health.ReasonManual, Upstreams: 2, Out: 2},
			zapcore.WarnLevel, "upstream draining", "no upstream is left, and clients get errors",
			"from hint reason to upstream",
		},
		"restored by order": {
			health.Transition{Addr: "a", From: draining, To: healthy, Reason: health.ReasonManual, Score: 5, Lasted: time.Minute, Upstreams: 2},
			zapcore.InfoLevel, "upstream restored", "",
			"from out_for reason to upstream",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ch := changeOf(tc.e)
			if ch.level != tc.level || ch.msg != tc.msg || !strings.Contains(ch.hint, tc.hint) || tc.hint == "" && ch.hint != "" {
				t.Errorf("got %v %q with the hint %q, want %v %q with %q", ch.level, ch.msg, ch.hint, tc.level, tc.msg, tc.hint)
			}
			var names []string
			for _, f := range transitionFields("z", tc.e, ch) {
				names = append(names, f.Key)
			}
			slices.Sort(names)
			want := append(strings.Fields(tc.with), "zone", "upstreams", "ejected")
			slices.Sort(want)
			if !slices.Equal(names, want) {
				t.Errorf("got the fields %v, want %v", names, want)
			}
			if data := transitionData("z", tc.e, ch); data["hint"] != ch.hint || data["reason"] != string(tc.e.Reason) {
				t.Errorf("got the event's data %v, want the same", data)
			}
		})
	}
}
