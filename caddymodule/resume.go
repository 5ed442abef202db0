// SPDX-License-Identifier: Apache-2.0

// Resume: a response that broke off after a part of it has reached the client
// goes on from another upstream.

package caddymodule

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
	"github.com/resetguard/caddy-resetguard/health"
)

// minProgress is how many bytes must have come since a response broke off before
// it counts as going on again: so a client can be kept at it by an upstream that
// breaks off at once no longer than by one that does not answer.
const minProgress = 16 << 10

const (
	// smallProgress and smallWithin are how much must have come since a response
	// broke off before, or how long ago that must have been, for the next break to
	// be mended at once and for nothing. An upstream that breaks off all the time
	// would otherwise be asked a thousand times for one download, as fast as it can
	// answer. Both are well below what a resume is for: at 1 MiB in a second the
	// pauses are a twentieth of the time that a download takes.
	smallProgress = 1 << 20
	smallWithin   = time.Second
	// retryPause is the wait before an upstream is asked again, the first time, and
	// after small progress before any is.
	retryPause = 50 * time.Millisecond
)

// relay is a response on its way through several attempts. It belongs to the
// goroutine that reads the response's body.
type relay struct {
	first, cur *attempt               // cur may have failed
	upstream   *reverseproxy.Upstream // of cur, if it resumes; nil is the one at hand

	// Since the last progress: when and after how many bytes the response broke
	// off, how often it was tried to go on, and where.
	since time.Time
	at    int64
	tries int
	free  int      // tries after which no upstream had got a byte
	tried exchange // as far as the choice of an upstream needs one
	small bool     // that progress was small, and soon over

	// reread is how much of the beginning the current upstream has sent again, if
	// it is to go on from there.
	reread int64

	// again is the answer that goes on, if it has come as a whole once more.
	again *http.Response

	mismatch *failover.MismatchError // what another upstream has instead; nil if none was seen
	gaveUp   bool
}

// prepareResume takes down what must be known to finish res elsewhere.
func (a *attempt) prepareResume(res *http.Response) {
	p := &a.transport.policy
	if p.Resume == failover.ResumeOff || p.Attempts == 1 || caddyhttp.IsIncremental(res.Header) || isStream(res.Header.Get("Content-Type")) {
		return
	}
	if a.resumption.Begin(p.Resume, withoutBody(a.out, a.ex.spool), res, a.began) {
		a.held = res
		a.body.ResumeWith(a)
	}
}

// withoutBody is the request as it is if a body of unknown length turns out to be
// empty, as that of every GET over HTTP/3 does.
func withoutBody(req *http.Request, spool *failover.Spool) *http.Request {
	if spool == nil || req.ContentLength > 0 || spool.Received() > 0 {
		return req
	}
	empty := *req
	empty.Body, empty.GetBody, empty.ContentLength, empty.TransferEncoding, empty.Trailer = nil, nil, 0, nil, nil
	return &empty
}

// notResumed is why nobody tried to go on with a response that broke off.
func (a *attempt) notResumed() failover.Reason {
	p := &a.transport.policy
	switch {
	case a.out.Method != http.MethodGet, a.client.Err() != nil:
		return failover.ReasonCommitted
	case p.Resume == failover.ResumeOff, p.Attempts == 1:
		return failover.ReasonNoResume
	}
	return failover.ReasonNoProof
}

// Passed implements failover.Resumer.
func (a *attempt) Passed(p []byte) { a.resumption.Passed(p) }

// Resume implements failover.Resumer.
func (a *attempt) Resume(sent int64, err error) (io.ReadCloser, error) {
	switch spool := a.ex.spool; {
	case a.length >= 0 && sent >= a.length, !a.ex.committed:
		return nil, err // complete, or not for us to mend
	case spool != nil && !(spool.Ended() && spool.Received() == 0 && spool.SourceErr() == nil):
		return nil, err // the request had a body after all
	}
	if a.relay == nil {
		if a.client.Err() != nil {
			return nil, err
		}
		a.relay = &relay{first: a, cur: a}
	}
	return a.relay.resume(sent, err)
}

// resume goes from upstream to upstream until one has the rest, or gives up.
func (rl *relay) resume(sent int64, err error) (io.ReadCloser, error) {
	if rl.since.IsZero() || sent-rl.at >= minProgress {
		rl.advance(sent-rl.at, time.Now())
		rl.at, rl.mismatch = sent, nil
	}
	f, cause := rl.cur.judge(err)
	rl.lose(f, cause)
	for {
		if reason := rl.refusal(f, time.Now()); reason != "" {
			return nil, rl.giveUp(reason, err)
		}
		rest, failed := rl.try(sent)
		if rest != nil {
			rl.first.ex.NoteResumed(rl.cur.upstream, sent)
			return rest, nil
		}
		if failed != nil {
			f = *failed
		}
	}
}

// advance begins the tries anew after so many bytes.
func (rl *relay) advance(by int64, now time.Time) {
	rl.small = !rl.since.IsZero() && by < smallProgress && now.Sub(rl.since) < smallWithin
	rl.since, rl.tries, rl.free, rl.tried = now, 0, 0, exchange{}
}

// lose is called when the current attempt has failed.
func (rl *relay) lose(f health.Fault, cause error) {
	a := rl.cur
	a.stop(cause)
	a.conclude(&f)
	a.ex.Note(f, a.upstream, failover.Decision{Action: failover.Resumed})
	if a.member != nil && f.Side != health.SideClient {
		a.transport.site.app.registry.metrics.of(a.member.Addr()).resumes.Inc()
	}
	rl.avoid()
}

// avoid makes the next choice avoid the current upstream.
func (rl *relay) avoid() {
	rl.tried.MarkTried(rl.cur.key)
	if m := rl.cur.member; m != nil {
		rl.tried.triedMembers = append(rl.tried.triedMembers, m)
	}
}

// refusal names the reason not to try to go on; empty if there is none.
func (rl *relay) refusal(f health.Fault, now time.Time) failover.Reason {
	a, p := rl.first, &rl.first.transport.policy
	most := p.Attempts
	if most == failover.Unlimited {
		most = failover.MaxAttempts
	}
	rl.tries++
	switch {
	case f.Safety == health.Never, a.client.Err() != nil:
		return failover.ReasonFutile
	case rl.tries >= most && rl.mismatch != nil && rl.mismatch.OtherVersion():
		return failover.ReasonVersion
	case rl.tries >= most && f.Cause == health.Mismatch:
		return failover.ReasonNoRest
	case rl.tries >= most:
		return failover.ReasonAttempts
	case rl.tries > 1 && now.Sub(rl.since) >= p.Within:
		return failover.ReasonDeadline
	case a.resumption.Spent():
		return failover.ReasonReread
	case !rl.permit(f, now):
		return failover.ReasonBudget
	}
	return ""
}

// permit asks the retry budget. To ask for what is missing, after a good deal has
// come, makes no upstream work more than the first request did. To have the
// beginning sent again does, but is no attempt that came to nothing; everything
// else is. As with retries, some attempts of which no upstream got a byte are free.
func (rl *relay) permit(f health.Fault, now time.Time) bool {
	progress := rl.tries == 1 && !rl.small
	if progress && !rl.first.resumption.Costly() || rl.cur.member == nil {
		return true
	}
	s := rl.first.transport.site
	load := failover.Load{Pressure: s.app.registry.host.State().P, PoolFault: !progress && s.shared.health.Down(now)}
	free := f.Safety == health.Unsent && rl.free < failover.FreeAttempts
	if free {
		rl.free++
	}
	ok := s.shared.budget.Take(rl.first.transport.policy.Budget, clientOf(rl.first.out), free, load, now)
	if !ok {
		s.app.registry.metrics.refused.Inc()
	}
	return ok
}

// giveUp ends the response. What was said of the last fault is not so.
func (rl *relay) giveUp(reason failover.Reason, err error) error {
	rl.gaveUp = true
	last := rl.first.ex.Last()
	last.Decision = failover.Decision{Action: failover.GaveUp, Reason: reason}
	if m := rl.first.member; m != nil && rl.first.client.Err() == nil {
		rl.first.transport.site.app.registry.metrics.cut(m.Addr(), reason)
	}
	return err
}

// try asks one upstream for what is missing after sent bytes.
func (rl *relay) try(sent int64) (io.ReadCloser, *health.Fault) {
	u, member := rl.next()
	if err := rl.pause(rl.isEarly(u)); err != nil {
		return nil, &health.Fault{Safety: health.Never}
	}
	a, before := rl.begin(u, member, sent), rl.reread
	rl.cur, rl.upstream, rl.reread = a, u, 0
	res, err := a.send()
	if err != nil {
		return nil, rl.failed(err)
	}
	now := time.Now()
	a.ttfb = now.Sub(a.began)
	a.giveBack(nil, res.StatusCode, now)
	if a.transport.policy.RetriesStatus(res.StatusCode) {
		_ = res.Body.Close()
		f := health.ClassifyStatus(res.StatusCode, parseRetryAfter(res.Header, time.Now()), a.evidence(a.view.Load()))
		f.Elapsed = time.Since(a.began)
		rl.lose(f, nil)
		return nil, &f
	}
	a.inBody, a.length = true, lengthOf(res)
	res.Body = a.watchBody(res, true) // what the client has already is due
	rest, err := rl.first.resumption.Accept(res, sent)
	if err == nil {
		if rl.first.length < 0 { // no part of such a body can be asked for
			rl.again = res
			a.dismiss()
		}
		return &resumedBody{Reader: rest, Closer: res.Body}, nil
	}
	_ = res.Body.Close()
	rl.noteReread(before, time.Now())
	if mismatch := (*failover.MismatchError)(nil); errors.As(err, &mismatch) {
		return nil, rl.differs(mismatch)
	}
	return nil, rl.failed(err)
}

// differs notes that the current upstream has something else. That does not count
// against its health, but operators have to know: clients of one version get no rest
// from the other.
func (rl *relay) differs(mismatch *failover.MismatchError) *health.Fault {
	if rl.mismatch == nil || mismatch.OtherVersion() {
		rl.mismatch = mismatch
	}
	a := rl.cur
	f := health.Fault{
		Cause: health.Mismatch, Phase: health.PhaseHeaders, Side: health.SideUpstream, Safety: health.IfIdempotent,
		Sent: -1, Received: -1, Elapsed: time.Since(a.began), Err: mismatch,
	}
	a.stop(nil)
	a.conclude(nil)
	a.ex.Note(f, a.upstream, failover.Decision{Action: failover.Resumed})
	if a.member != nil {
		a.transport.site.app.registry.metrics.fault(a.member.Addr(), &f)
	}
	rl.avoid()
	return &f
}

// noteReread takes what was sent again of the beginning for progress, too.
func (rl *relay) noteReread(before int64, now time.Time) {
	if n := rl.first.resumption.Reread(); n-before >= minProgress {
		rl.advance(n-before, now)
		rl.reread = n
	}
}

// next is the upstream to ask: the same one, if it can go on where it broke off.
func (rl *relay) next() (*reverseproxy.Upstream, *health.Member) {
	if rl.reread > 0 {
		return rl.upstream, rl.cur.member
	}
	rl.first.resumption.StartOver()
	return rl.choose()
}

func (rl *relay) failed(err error) *health.Fault {
	f, cause := rl.cur.judge(err)
	rl.lose(f, cause)
	return &f
}

// ended is called as the response's body has ended, in whatever way.
func (rl *relay) ended(received int64, err error) {
	rl.cur.stop(err)
	rl.takeTrailer(err)
	rl.cur.conclude(nil) // if nothing else was found
	switch a := rl.first; {
	case err == nil, a.length >= 0 && received >= a.length:
		if m := rl.cur.member; m != nil {
			rl.cur.transport.site.app.registry.metrics.of(m.Addr()).finished.Inc()
		}
		a.report(ending{outcomeAnswered, a.status})
	case err == failover.ErrUnread, a.client.Err() != nil:
		a.report(ending{outcomeClientGone, a.status})
	default:
		a.report(ending{outcomeAborted, a.status})
	}
}

// isEarly tells that u, of which nil is the upstream at hand, is not to be asked at
// once: it has just failed, or the progress before was small.
func (rl *relay) isEarly(u *reverseproxy.Upstream) bool {
	if rl.small && rl.tries == 1 {
		return true
	}
	return rl.reread == 0 && (u == nil || rl.tried.Tried(u.String()) > 0)
}

// pause waits before an upstream is asked too early: 50 ms, 200 ms, 800 ms, each
// less up to half of it at random.
func (rl *relay) pause(early bool) error {
	if !early {
		return nil
	}
	wait := retryPause << min(2*(rl.tries-1), 4)
	timer := time.NewTimer(wait/2 + rand.N(wait/2))
	defer timer.Stop()
	ctx := rl.first.client
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resumedBody is the rest of a response, from another upstream.
type resumedBody struct {
	io.Reader
	io.Closer
}
