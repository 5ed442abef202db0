// SPDX-License-Identifier: Apache-2.0

// One attempt's outcome: what it means, what is done, what Caddy is told.

package caddymodule

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// failed judges a round trip that returned an error and says what Caddy's proxy
// is to be told.
func (a *attempt) failed(err error) error {
	if he := (caddyhttp.HandlerError{}); a.clientErr() == nil && errors.As(err, &he) {
		a.conclude(new(health.Fault))
		a.stop(err) // the transport's own answer to the request (FastCGI)
		a.ex.next = failover.Decision{}
		return err
	}
	f, err := a.judge(err)
	a.stop(err)
	a.conclude(&f)
	d := a.decide(f)
	if f.Cause == health.ClientGone || f.Side == health.SideClient && f.Cause == health.Protocol {
		return a.clientError(f, err)
	}
	return &attemptError{fault: f, upstream: a.upstream, retry: d.Retry() || a.transport.policy.Off, err: err}
}

// judge says what an attempt's error means, and what the error truly was.
func (a *attempt) judge(err error) (health.Fault, error) {
	ev := a.evidence(a.view.Load())
	if a.stalled.Load() && ev.Context == nil {
		err = errStalled // it was us who broke it off
	}
	var dial reverseproxy.DialError
	if ev.Dialing = errors.As(err, &dial); ev.Dialing && a.dial != nil {
		err = a.dial.explain(err)
	}
	if ev.Unprocessed = a.refused && ev.Context == nil; ev.Unprocessed {
		err = errRefusedUnprocessed // it was us who cancelled, not the client
	}
	f := a.classify(err, ev)
	if err == errStalled && ev.Multiplexed {
		f = a.ofSharedConn(f, ev.Uploaded)
	}
	a.transport.site.app.registry.host.ObserveError(err)
	if f.Cause == health.RefusedStream && ev.Unprocessed {
		f.Cause = a.refusal
	}
	return f, err
}

// sharedStallWeight is what a stall weighs on a connection of which nothing is known
// but that others share it.
const sharedStallWeight = 0.25

// ofSharedConn weighs a stall on a connection that others share. The window for all
// their uploads may be used up by a request of which the origin reads nothing; over
// HTTP/3 also the one for all answers, by clients that do not take theirs, and the
// streams. None of that can be seen from here.
func (a *attempt) ofSharedConn(f health.Fault, uploaded bool) health.Fault {
	switch {
	case !uploaded:
		f.Side, f.Weight = health.SideNetwork, 0
	case a.transport.onlyHTTP3:
		f.Weight = min(f.Weight, sharedStallWeight)
	}
	return f
}

// classify says what err means, given what is known of the request.
func (a *attempt) classify(err error, ev health.Evidence) health.Fault {
	f := health.Classify(err, ev)
	f.Elapsed = time.Since(a.began)
	if a.transport.namesVary {
		f = f.OfName()
	}
	if health.IsCancelled(err) && a.out.Header.Get("Grpc-Timeout") != "" {
		f.Weight = 0 // gRPC servers end a call so whose deadline is over: the client set it
	}
	return f
}

// cannotBegin ends a request which was to be sent again although its body is
// gone. The upstream chosen for it has done nothing wrong.
func (a *attempt) cannotBegin(err error) error {
	a.stop(err)
	a.conclude(new(health.Fault))
	a.ex.next = failover.Decision{}
	if a.ex.handled && a.ex.Last() != nil {
		a.ex.Last().Decision = failover.Decision{Action: failover.GaveUp, Reason: failover.ReasonNotKept}
		a.ex.takenBack = true
		return &attemptError{fault: health.Fault{Cause: health.ClientGone}, upstream: a.upstream, err: context.Canceled}
	}
	return &attemptError{fault: health.Fault{Cause: health.Unknown, Phase: health.PhaseWrite}, upstream: a.upstream, err: err}
}

// decide asks what to do about f. Without a handler of ours in front nobody
// else will tell of it, so it is told at once.
func (a *attempt) decide(f health.Fault) failover.Decision {
	a.ex.next = a.ex.Decide(f, a.key, failover.Situation{
		Address: a.upstream,
		Untried: a.ex.untried(a.key),
		Whole:   a.ex.whole(),
		Permit:  a.permitRetry,
	}, time.Now())
	if !a.ex.handled {
		a.report(ending{outcome: outcomePending})
	}
	return a.ex.next
}

// stop releases the attempt's context, and with it a stream that is still open.
func (a *attempt) stop(cause error) {
	a.unhook()
	a.leaveBuffer()
	a.dismiss()
	if a.abort != nil {
		a.abort(cause)
	}
}

// readEnds is how much later than the request's context the read of its body may end: over
// HTTP/1 that is ended by the error of the read, before the reader has it.
const readEnds = 50 * time.Millisecond

// clientError makes Caddy's proxy treat the error as the client's: it answers
// 499 and does not count it against the origin. A client that can still be
// answered gets its answer from our handler, or, without one, from Caddy.
func (a *attempt) clientError(f health.Fault, err error) error {
	var source error
	switch {
	case f.Cause != health.ClientGone:
		source = errUnsendable(err)
	case a.ex.spool != nil:
		source = a.ex.spool.SourceErrWithin(readEnds)
	}
	if answerable(source) {
		if !a.ex.handled {
			return err
		}
		a.ex.clientErr, a.ex.takenBack = source, true
	}
	return &attemptError{fault: health.Fault{Cause: health.ClientGone}, upstream: a.upstream, err: context.Canceled}
}

// cannotSend is told to Caddy's proxy if the client's body has come to a bad end before
// there was an attempt to send it: a part of it is no request.
func (ex *exchange) cannotSend(err error) error {
	if answerable(err) {
		ex.clientErr, ex.takenBack = err, true
	}
	return &attemptError{fault: health.Fault{Cause: health.ClientGone}, err: context.Canceled}
}

// answerable tells whether a client whose upload failed is still there: it sent
// too much or too slowly, but did not break off.
func answerable(err error) bool {
	var he caddyhttp.HandlerError
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	return errors.Is(err, failover.ErrLength) || errors.As(err, &he) || errors.As(err, &tooLarge) || errors.As(err, &timeout) && timeout.Timeout()
}

// answered judges a response: a gateway error is a fault, and the start of any
// other is held until it is safe.
func (a *attempt) answered(res *http.Response) (*http.Response, error) {
	a.status = res.StatusCode
	now := time.Now()
	if res.StatusCode != http.StatusSwitchingProtocols && !isStream(res.Header.Get("Content-Type")) {
		a.ttfb = a.firstByte(now)
	}
	a.takeInLoad(res, now)
	if a.retriesStatus(res) {
		return a.leave(res)
	}
	a.giveBack(nil, res.StatusCode, now)
	if res.StatusCode == http.StatusNotModified && res.Body != nil {
		// It may say how long the body would be (RFC 9110 section 8.6), which net/http
		// misses over HTTP/2.
		_ = res.Body.Close()
		res.Body = http.NoBody
	}
	if res.StatusCode == http.StatusSwitchingProtocols || res.Body == nil || res.Body == http.NoBody {
		a.ex.upgraded = res.StatusCode == http.StatusSwitchingProtocols
		a.conclude(nil)
		a.unhook()
		a.leaveBuffer()
		a.dismiss()
		a.BodyStarted()
		a.commit(res.StatusCode) // a 101's body must stay an io.ReadWriteCloser
		return res, nil
	}
	a.inBody, a.length, a.status = true, lengthOf(res), res.StatusCode
	a.body.Watch(a.watchBody(res, false), a)
	ready := a.ready(res)
	if a.length < 0 || ready < a.length {
		a.prepareResume(res)
	}
	// What has come as a whole can break no more.
	if whole := a.length >= 0 && ready >= a.length; !whole && a.holds(res) {
		p := &a.transport.policy
		res = a.withOwnTrailer(res)
		if err := a.body.Hold(p.HoldBytes, a.length, ready, p.HoldFor); err != nil {
			_ = a.body.Close()
			return nil, a.failed(err)
		}
	}
	res.Body = &a.body
	a.commit(res.StatusCode)
	return res, nil
}

// retriesStatus tells whether the response is a gateway error and the request is
// to be sent again. Otherwise the response stands: the origin's own page says
// more than ours could.
func (a *attempt) retriesStatus(res *http.Response) bool {
	if !a.transport.policy.RetriesStatus(res.StatusCode) {
		return false
	}
	f := health.ClassifyStatus(res.StatusCode, parseRetryAfter(res.Header, time.Now()), a.evidence(a.view.Load()))
	f.Elapsed = time.Since(a.began)
	a.conclude(&f)
	return a.decide(f).Retry()
}

// leave makes Caddy's proxy send the request again instead of passing on res. An
// error would count against the origin where fail_duration is set, so there the
// response is left to the proxy's own retry_match.
func (a *attempt) leave(res *http.Response) (*http.Response, error) {
	a.dismiss()
	if a.transport.RetryMatchesStatus && res.Body != nil {
		a.inBody, a.length = true, lengthOf(res)
		a.body.Watch(res.Body, a) // commits if it is read after all
		res.Body = &a.body
		return res, nil
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	a.stop(nil)
	return nil, &attemptError{fault: a.ex.Last().Fault, upstream: a.upstream, retry: true}
}

// parseRetryAfter reads delta-seconds or a date (RFC 9110 section 10.2.3); zero
// if the origin gave neither.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// lengthOf is the length of the response's body; -1 if unknown. FastCGI leaves
// ContentLength at zero when there is no such field.
func lengthOf(res *http.Response) int64 {
	if res.ContentLength == 0 && res.ProtoMajor == 0 && res.Header.Get("Content-Length") == "" {
		return -1
	}
	return res.ContentLength
}

// holds tells whether the start of res may be held: not when somebody waits for
// each part of it.
func (a *attempt) holds(res *http.Response) bool {
	if a.transport.policy.HoldBytes <= 0 || a.length == 0 || a.transport.site.app.short() {
		return false
	}
	if caddyhttp.IsIncremental(res.Header) || caddyhttp.IsIncremental(a.out.Header) {
		return false
	}
	return !isStream(res.Header.Get("Content-Type"))
}

// isStream recognises event streams and gRPC, with all its codecs, by their
// media type. It does without mime.ParseMediaType, which allocates.
func isStream(contentType string) bool {
	const grpc = "application/grpc"
	mt, _, _ := strings.Cut(contentType, ";")
	mt = strings.TrimSpace(mt)
	return strings.EqualFold(mt, "text/event-stream") ||
		len(mt) >= len(grpc) && strings.EqualFold(mt[:len(grpc)], grpc)
}

// ready is how much of the body can be read without waiting: what came in the
// same read as the header, if it is the body as it is and not chunks or gzip.
func (a *attempt) ready(res *http.Response) int64 {
	v := a.view.Load()
	if v == nil || v.conn == nil || v.multiplexed || res.ContentLength < 0 || res.Uncompressed {
		return 0
	}
	return v.conn.BodySeen()
}

// commit hands the response over. What went wrong before is over, and told.
func (a *attempt) commit(status int) {
	a.ex.committed = true
	if a.trial && a.enlisted {
		a.transport.site.view.TrialBegun(a.member, time.Now())
	}
	a.report(ending{outcomeAnswered, status})
}

// BodyStarted is called as the response's body is first asked for: no other
// attempt can follow, so the request's body is kept no longer.
func (a *attempt) BodyStarted() {
	a.ex.committed = true
	if a.ex.spool != nil {
		a.ex.spool.Abandon()
	}
}

// BodyEnded is called as the response's body has ended. What broke off now has
// reached the client in part and cannot be mended.
func (a *attempt) BodyEnded(received int64, err error) {
	a.ex.unread = a.ex.unread || err != nil
	if a.relay != nil {
		a.relay.ended(received, err)
		return
	}
	a.stop(err)
	a.takeTrailer(err)
	defer a.conclude(nil) // if nothing else was found
	if a.length >= 0 && received >= a.length {
		return // complete, though a client that has all of it may be gone before the end is read
	}
	if err == failover.ErrUnread && a.trial { // it was not seen to answer in full
		a.conclude(&health.Fault{Cause: health.ClientGone, Phase: health.PhaseBody, Side: health.SideClient})
	}
	if err == nil || err == failover.ErrUnread || !a.ex.committed {
		return
	}
	f := a.classify(err, a.evidence(a.view.Load()))
	a.conclude(&f)
	reason := a.notResumed()
	a.ex.Note(f, a.upstream, failover.Decision{Action: failover.GaveUp, Reason: reason})
	if a.member != nil && f.Side != health.SideClient {
		a.transport.site.app.registry.metrics.cut(a.member.Addr(), reason)
	}
	a.report(ending{outcomeAborted, a.status})
}

func (a *attempt) report(end ending) {
	a.ex.report(a.transport.faults, a.out, end)
}
