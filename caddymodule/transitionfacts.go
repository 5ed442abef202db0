// SPDX-License-Identifier: Apache-2.0

// What a transition is told with, in the log and in events: only figures that
// led to it.

package caddymodule

import (
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/health"
)

// fact is a field of a transition's line, and of its event's data.
type fact struct {
	name  string
	value any
}

func factsOf(zone string, e health.Transition, ch change) []fact {
	facts := []fact{{"zone", clip(zone)}}
	switch {
	case e.Reason == health.ReasonPoolFault || e.Reason == health.ReasonPoolRecovered:
		facts = append(facts, poolFacts(e)...)
	case e.Reason == health.ReasonManual || e.To == health.Healthy && e.From != health.Healthy:
		facts = append(facts, changeFacts(e)...)
	default:
		facts = append(append(facts, changeFacts(e)...), evidenceFacts(e)...)
	}
	facts = append(append(facts, faultFacts(e.Fault)...),
		fact{"upstreams", e.Upstreams}, fact{"ejected", e.Out})
	if ch.hint != "" {
		facts = append(facts, fact{"hint", ch.hint})
	}
	return facts
}

// poolFacts are the figures of all upstreams together.
func poolFacts(e health.Transition) []fact {
	facts := []fact{
		{"reason", string(e.Reason)},
		{"failure_rate", round(e.Rate)},
		{"requests", e.Requests},
	}
	if e.Reason == health.ReasonPoolRecovered {
		return append(facts, fact{"lasted", e.Lasted})
	}
	return append(facts, fact{"upstream", clip(e.Addr)}, fact{"upstream_failure_rate", round(e.Own)})
}

// changeFacts are what has changed. Of what has ended, how long it was.
func changeFacts(e health.Transition) []fact {
	facts := []fact{
		{"upstream", clip(e.Addr)},
		{"from", e.From.String()},
		{"to", e.To.String()},
		{"reason", string(e.Reason)},
	}
	if e.Level > 0 && e.Reason != health.ReasonManual {
		facts = append(facts, fact{"times", e.Level})
	}
	if !e.Until.IsZero() {
		facts = append(facts, fact{"until", e.Until})
	}
	if e.To == health.Healthy && e.From != health.Healthy {
		facts = append(facts, fact{"out_for", e.Lasted})
		if e.Trials > 0 {
			facts = append(facts, fact{"trials", e.Trials})
		}
	}
	return facts
}

// evidenceFacts are why an upstream was found to be bad.
func evidenceFacts(e health.Transition) []fact {
	facts := []fact{{"requests", e.Requests}, {"score", round(e.Score)}}
	if !e.Slow {
		return append(facts, fact{"failure_rate", round(e.Rate)}, fact{"peers_failure_rate", round(e.Peers)})
	}
	return append(facts, fact{"slow_rate", round(e.Rate)}, fact{"peers_slow_rate", round(e.Peers)},
		fact{"latency", e.Latency}, fact{"peers_median", e.PeersMedian})
}

// faultFacts are the decisive fault's, as in its own line.
func faultFacts(f health.Fault) []fact {
	if f.Cause == "" {
		return nil
	}
	facts := []fact{{"cause", string(f.Cause)}, {"phase", string(f.Phase)}, {"side", string(f.Side)}}
	if f.StatusCode != 0 {
		facts = append(facts, fact{"upstream_status", f.StatusCode})
	}
	if f.Err != nil {
		facts = append(facts, fact{"error", clip(f.Err.Error())})
	}
	return facts
}

func transitionFields(zone string, e health.Transition, ch change) []zap.Field {
	facts := factsOf(zone, e, ch)
	fields := make([]zap.Field, len(facts))
	for i, f := range facts {
		fields[i] = zap.Any(f.name, f.value)
	}
	return fields
}

// transitionData has the texts that a handler may ask for also where they are
// empty: Caddy leaves the placeholder of one that is missing as it is.
func transitionData(zone string, e health.Transition, ch change) map[string]any {
	data := map[string]any{"upstream": "", "from": "", "to": "", "cause": "", "phase": "", "hint": ""}
	for _, f := range factsOf(zone, e, ch) {
		switch v := f.value.(type) {
		case time.Time:
			f.value = v.UTC().Format(time.RFC3339)
		case time.Duration:
			f.value = v.Seconds()
		}
		data[f.name] = f.value
	}
	return data
}

// round to three digits, which is more than the figures are worth.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
