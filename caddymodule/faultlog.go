// SPDX-License-Identifier: Apache-2.0

// The fault log: one line for each fault, bounded in rate.

package caddymodule

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
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
	all := ex.Dropped() + len(records)
	if ex.reported == all {
		return
	}
	now := time.Now()
	zone := ""
	if ex.site != nil {
		zone = ex.site.label()
	}
	untold := records[max(0, ex.reported-ex.Dropped()):]
	for i, rec := range untold {
		if c := log.admit(zone, rec, end, now); c != nil {
			ex.requestID(r)
			fields := append(faultFields(zone, rec, end, now), requestFields(ex, r)...)
			if lost := ex.Dropped() - ex.reported; i == len(untold)-1 && lost > 0 {
				fields = append(fields, zap.Int("faults_left_out", lost))
			}
			c.Write(fields...)
		}
	}
	ex.reported = all
	ex.noteInAccessLog(r)
}

// noteInAccessLog gives the request's access log line the fault and the id, also
// when the request was aborted, which log_append does not see.
func (ex *exchange) noteInAccessLog(r *http.Request) {
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	last := ex.Last()
	extra.Set(zap.String("uuid", ex.requestID(r)))
	extra.Set(zap.Dict("reset_guard",
		zap.Int("attempts", ex.Attempts()),
		zap.String("upstream", clip(ex.upstream)),
		zap.String("cause", string(last.Cause)),
		zap.String("action", string(last.Decision.Action)),
	))
}

// admit returns the entry to write a fault's line to; nil if it is not to be
// written, because of its level or because there are too many of its kind.
func (l *faultLog) admit(zone string, rec failover.Record, end ending, now time.Time) *zapcore.CheckedEntry {
	level := levelOf(rec.Fault, rec.Decision.Action, end.outcome)
	c := l.logger.Check(level, "upstream fault")
	if c == nil {
		return nil
	}
	kind := diagnose.Kind{
		Zone: zone, Upstream: rec.Upstream, Cause: rec.Cause, Phase: rec.Phase, Side: diagnose.Side(rec.Fault),
		Outcome: end.outcome, Action: string(rec.Decision.Action),
	}
	if !l.burst.Allow(kind, &diagnose.Line{Level: int8(level), Fault: rec.Fault}, now) {
		return nil
	}
	return c
}

// levelOf is about who has to act: nobody for a client that left, somebody some
// day for what was mended, somebody soon for what will not mend itself, somebody
// now for what a client has seen.
func levelOf(f health.Fault, action failover.Action, outcome string) zapcore.Level {
	switch {
	case diagnose.Silent(f):
		return zapcore.WarnLevel // it is the origin that was silent
	case f.Cause == health.ClientGone, f.Side == health.SideClient && f.Cause == health.Protocol:
		return zapcore.DebugLevel
	case f.Side == health.SideClient:
		return zapcore.InfoLevel // the client has got an error, if it is still there
	case f.Cause == health.Mismatch && action == failover.Resumed:
		return zapcore.WarnLevel // clients of one version get no rest from the other
	case (action == failover.Retried || action == failover.Resumed) && !f.Trip:
		return zapcore.InfoLevel
	case outcome == outcomeError, outcome == outcomeAborted:
		return zapcore.ErrorLevel
	}
	return zapcore.WarnLevel
}

// toldLate is how much later than the fault a line must be written for it to say
// when the fault was.
const toldLate = time.Second

func faultFields(zone string, rec failover.Record, end ending, now time.Time) []zap.Field {
	if rec.Cause == health.ClientGone && end.outcome != outcomeError {
		end.outcome = outcomeClientGone
	}
	fields := []zap.Field{
		zap.String("zone", clip(zone)),
		zap.String("upstream", clip(rec.Upstream)),
		zap.String("cause", string(rec.Cause)),
		zap.String("phase", string(rec.Phase)),
		zap.String("side", string(diagnose.Side(rec.Fault))),
		zap.Int("attempt", rec.Attempt),
		zap.String("action", string(rec.Decision.Action)),
		zap.String("outcome", end.outcome),
		zap.Duration("elapsed", rec.Elapsed),
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
	if rec.ResumedBy != "" {
		fields = append(fields, zap.String("resumed_by", clip(rec.ResumedBy)), zap.Int64("resumed_at", rec.ResumedAt))
	}
	if now.Sub(rec.At) >= toldLate {
		fields = append(fields, zap.Time("at", rec.At))
	}
	if rec.Decision.Action == failover.GaveUp || rec.Trip || rec.Phase == health.PhaseDial || rec.Cause == health.Mismatch {
		fields = append(fields, zap.String("hint", hintOf(rec)))
	}
	return fields
}

// hintOf is about what keeps answers from being finished, where that is known: why one
// broke off is said by the lines of those that were.
func hintOf(rec failover.Record) string {
	if rec.Side == health.SideClient {
		return diagnose.Hint(rec.Fault)
	}
	switch rec.Decision.Reason {
	case failover.ReasonNoProof:
		return hintNoProof
	case failover.ReasonVersion:
		return hintVersion
	}
	return diagnose.Hint(rec.Fault)
}

const (
	hintNoProof = "The origin broke off an answer: look into its log. Nothing proved what belongs to the rest, so clients got a part: let the origins send a Content-Length and the same strong ETag, or set `resume verify`."
	hintVersion = "An answer broke off, and another origin had another version, so clients got a part. Make ETag, Last-Modified and length the same on all origins (no ETags made from inodes), and finish deployments."
)

// requestFields name the client's request, so that it is found in other logs.
func requestFields(ex *exchange, r *http.Request) []zap.Field {
	host := r.Host
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		host, _ = repl.GetString("http.request.hostport") // before header_up; orig has none
	}
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r = &orig // what the client asked for, before any rewrite
	}
	fields := []zap.Field{
		zap.String("request_id", ex.id),
		zap.String("method", clip(r.Method)),
		zap.String("host", clip(host)),
		zap.String("uri", clip(r.RequestURI)),
	}
	if ex.refused != concurrency.NotRefused {
		fields = append(fields, zap.String("refused", ex.refused.String()), zap.Stringer("class", ex.class))
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
		return strings.ToValidUTF8(s[:maxLogText], "") + "..."
	}
	return s
}

// summaries writes how many lines were left out.
func (l *faultLog) summaries(sums []diagnose.Summary) {
	for _, s := range sums {
		c := l.logger.Check(zapcore.Level(s.Level), "upstream faults summed up")
		if c == nil {
			continue
		}
		c.Write(
			zap.Int("count", s.Suppressed),
			zap.String("zone", clip(s.Zone)),
			zap.String("upstream", s.Upstream),
			zap.String("cause", string(s.Cause)),
			zap.String("phase", string(s.Phase)),
			zap.String("side", string(s.Side)),
			zap.String("action", s.Action),
			zap.String("outcome", s.Outcome),
			zap.String("hint", s.Hint),
			zap.Time("first", s.First),
			zap.Time("last", s.Last),
		)
	}
}
