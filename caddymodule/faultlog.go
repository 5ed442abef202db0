// SPDX-License-Identifier: Apache-2.0

// The fault log: one line for each fault, bounded in rate.

package caddymodule

import (
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// How a request ended, as its client saw it.
const (
	outcomeAnswered   = "answered"    // a complete response of an upstream
	outcomeError      = "error"       // one well-formed error of this server
	outcomeAborted    = "aborted"     // a response that broke off
	outcomeClientGone = "client_gone" // nothing: the client was gone
	outcomePending    = "pending"     // not known: no reset_guard handler is in front
)

// ending is how a request ended, with the status that the client saw; 0 if none
// is known.
type ending struct {
	outcome string
	status  int
}

// faultLog writes what the exchanges report. It is shared by all sites, so that
// its bound holds for the server.
type faultLog struct {
	logger *zap.Logger
	burst  *diagnose.Burst
}

// report writes the exchange's faults that were not written yet.
func (ex *exchange) report(log *faultLog, r *http.Request, end ending) {
	records := ex.Records()
	if ex.reported == len(records) {
		return
	}
	now := time.Now()
	for _, rec := range records[ex.reported:] {
		if c := log.admit(rec, end, now); c != nil {
			c.Write(append(faultFields(rec, end), requestFields(ex, r)...)...)
		}
	}
	ex.reported = len(records)
}

// admit returns the entry to write a fault's line to; nil if it is not to be
// written, because of its level or because there are too many of its kind.
func (l *faultLog) admit(rec failover.Record, end ending, now time.Time) *zapcore.CheckedEntry {
	c := l.logger.Check(levelOf(rec, end), "upstream fault")
	if c == nil {
		return nil
	}
	kind := diagnose.Kind{Upstream: rec.Upstream, Cause: rec.Cause, Phase: rec.Phase, Action: string(rec.Decision.Action)}
	if !l.burst.Allow(kind, now) {
		return nil
	}
	return c
}

// levelOf is about who has to act: nobody for a client that left, somebody some
// day for what was mended, somebody now for what a client has seen.
func levelOf(rec failover.Record, end ending) zapcore.Level {
	switch {
	case rec.Cause == health.ClientGone:
		return zapcore.DebugLevel
	case rec.Decision.Retry():
		return zapcore.InfoLevel
	case end.outcome == outcomeError, end.outcome == outcomeAborted:
		return zapcore.ErrorLevel
	}
	return zapcore.WarnLevel
}

func faultFields(rec failover.Record, end ending) []zap.Field {
	if rec.Cause == health.ClientGone && end.outcome != outcomeError {
		end = ending{outcome: outcomeClientGone}
	}
	fields := []zap.Field{
		zap.String("upstream", rec.Upstream),
		zap.String("cause", string(rec.Cause)),
		zap.String("phase", string(rec.Phase)),
		zap.String("side", string(rec.Side)),
		zap.Int("attempt", rec.Attempt),
		zap.String("action", string(rec.Decision.Action)),
		zap.String("outcome", end.outcome),
		zap.Bool("conn_reused", rec.Reused),
		zap.Duration("idle", rec.Idle),
		zap.Int64("bytes_sent", rec.Sent),
		zap.Int64("bytes_received", rec.Received),
	}
	if end.status != 0 {
		fields = append(fields, zap.Int("status", end.status))
	}
	if rec.StatusCode != 0 {
		fields = append(fields, zap.Int("upstream_status", rec.StatusCode))
	}
	if rec.Err != nil {
		fields = append(fields, zap.String("error", clip(rec.Err.Error())))
	}
	if rec.Decision.Reason != "" {
		fields = append(fields, zap.String("reason", string(rec.Decision.Reason)))
	}
	if !rec.Decision.Retry() || rec.Trip {
		fields = append(fields, zap.String("hint", diagnose.Hint(rec.Fault)))
	}
	return fields
}

// requestFields name the client's request, so that it is found in other logs.
func requestFields(ex *exchange, r *http.Request) []zap.Field {
	fields := []zap.Field{
		zap.String("request_id", ex.requestID(r)),
		zap.String("method", r.Method),
		zap.String("host", clip(r.Host)),
		zap.String("uri", clip(requestURI(r))),
	}
	if ex.spool != nil {
		if err := ex.spool.Overflow(); err != nil {
			fields = append(fields, zap.NamedError("body_not_kept", err))
		}
	}
	return fields
}

// maxLogText is how much of a text that a client or an origin chose goes into a
// log line, in bytes.
const maxLogText = 512

func clip(s string) string {
	if len(s) > maxLogText {
		return s[:maxLogText] + "..."
	}
	return s
}

// requestURI is the client's, which the proxy's copy of the request keeps.
func requestURI(r *http.Request) string {
	if r.RequestURI != "" {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// summaries writes how many lines were left out.
func (l *faultLog) summaries(sums []diagnose.Summary) {
	for _, s := range sums {
		l.logger.Warn("upstream faults summed up",
			zap.Int("count", s.Suppressed),
			zap.String("upstream", s.Upstream),
			zap.String("cause", string(s.Cause)),
			zap.String("phase", string(s.Phase)),
			zap.String("action", s.Action),
			zap.Time("first", s.First),
			zap.Time("last", s.Last),
		)
	}
}
