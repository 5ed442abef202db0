// SPDX-License-Identifier: Apache-2.0

// Classify: from what was seen of an attempt to a Fault.

package health

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// Evidence is what is known of a failed attempt besides the error that the
// transport returned. The zero value means that nothing is known, which makes
// every answer a careful one.
type Evidence struct {
	// Context is the error of the client's request context, nil while the
	// client waits. It is looked at first: errors.Is(err,
	// context.DeadlineExceeded) also holds for time-outs that are the origin's.
	Context error
	// Client is the error that reading the request's body from the client
	// gave, nil if there was none.
	Client error

	// Dialing tells that the error comes from the dial.
	Dialing bool
	// Connected tells that the attempt got a connection, TLS included. If
	// false (and Watched is true), nothing of the request can have been sent.
	Connected bool
	// Watched tells whether connections are observed at all. Transports that
	// are not (FastCGI, other modules) give Connected no meaning.
	Watched bool

	// Conn is the connection; nil if it is not watched.
	Conn *Conn
	// SentBefore and ReceivedBefore are Conn's counts when the attempt got it.
	SentBefore, ReceivedBefore int64
	Reused                     bool
	Idle                       time.Duration
	// Multiplexed tells that other requests share the connection (HTTP/2), so
	// that its counts say nothing about this one unless they are zero.
	Multiplexed bool
	// Uploaded tells that the request was handed over completely.
	Uploaded bool
	// Unprocessed tells that the origin refused the request unprocessed, which
	// net/http's HTTP/2 client knows but does not always say.
	Unprocessed bool
	// Answered tells that a byte of the response has come, as net/http sees it
	// (httptrace's GotFirstResponseByte). On TLS nothing else tells: bytes of
	// alerts and of session tickets are received, too.
	Answered bool
	// InBody tells that the response's header had been received.
	InBody bool
	// Shunned tells that this side closed the connection before the request was sent.
	Shunned bool

	// Awaited is for how long the client had been silent, in the middle of its
	// request's body, when the attempt ended; 0 if it was not waited for.
	Awaited time.Duration
	// Delayed is for how long in all the client did not take what had come of the
	// response's body.
	Delayed time.Duration
}

const (
	// clientPause is how long a client must have been waited for until an origin's limit
	// of time may be the reason of what follows. Servers' limits are seconds; a network's
	// pauses are rarely half of one (RFC 6298: the first retransmission comes after a
	// second, later ones after the measured round trip).
	clientPause = 500 * time.Millisecond
	// clientSilence is how long until it most probably is. Few people's uploads pause for
	// so long, and servers' usual limits are longer (Apache 20 s, nginx 60 s).
	clientSilence = 5 * time.Second
)

// Classify turns a failed attempt into a Fault. The rules and their order are
// those of HEALTH.md section 3.3; what the client did comes before anything an
// origin can be blamed for.
func Classify(err error, ev Evidence) Fault {
	f := Fault{
		Side: SideUpstream, Weight: 1, Err: err,
		Reused: ev.Reused, Idle: ev.Idle, Sent: -1, Received: -1,
	}
	if ev.Conn != nil {
		f.Sent = ev.Conn.Sent() - ev.SentBefore
		f.Received = ev.Conn.Received() - ev.ReceivedBefore
	}
	if ev.Dialing || ev.Watched && !ev.Connected {
		f.Sent, f.Received = 0, 0 // without a connection that is certain
	}
	f.Phase, f.Safety = phaseOf(&f, ev)

	switch {
	case ev.Client != nil, errors.Is(ev.Context, context.Canceled):
		return f.blameClient()
	case ev.Context != nil:
		f.Cause, f.Side, f.Weight, f.Safety = Timeout, SideProxy, 0, Never
		return f
	case !ev.InBody && isUnsendable(err), isGivenUp(err, ev):
		// net/http would not put the client's request on any wire.
		f.Cause, f.Side, f.Weight, f.Safety = Protocol, SideClient, 0, Never
		return f
	case ev.Dialing:
		return classifyDial(f)
	case f.Phase == PhaseTLS:
		return classifyTLS(f)
	}
	return classifyExchange(f, ev)
}

func (f Fault) blameClient() Fault {
	f.Cause, f.Side, f.Weight, f.Safety = ClientGone, SideClient, 0, Never
	return f
}

// phaseOf says how far the attempt came and, from that alone, who may retry.
func phaseOf(f *Fault, ev Evidence) (Phase, Safety) {
	switch {
	case ev.Dialing:
		return PhaseDial, Unsent
	case ev.InBody:
		return PhaseBody, IfIdempotent
	case ev.Watched && !ev.Connected && ev.Context != nil:
		// net/http returns at once and lets the dial go on behind it: whether
		// TLS had begun is not known.
		return PhaseDial, Unsent
	case ev.Watched && !ev.Connected:
		return PhaseTLS, Unsent
	case f.Sent == 0:
		// What came in spite of that answers nothing: a TLS alert, or a 408 to
		// tell that the connection was idle for too long.
		return sendingPhase(f, ev), Unsent
	case isAnswered(f, ev):
		return PhaseHeaders, IfIdempotent
	}
	return sendingPhase(f, ev), IfIdempotent
}

// sendingPhase is the phase of an attempt without an answer.
func sendingPhase(f *Fault, ev Evidence) Phase {
	switch {
	case ev.Reused && !ev.Multiplexed:
		return PhaseStale
	case !ev.Uploaded || f.Sent == 0:
		return PhaseWrite
	}
	return PhaseWait
}

// isAnswered tells whether any byte of a response has come. The count alone
// shows that only where nothing else is received.
func isAnswered(f *Fault, ev Evidence) bool {
	return ev.Answered || f.Received > 0 && !ev.Multiplexed && !ev.Conn.tls.Load()
}

// classifyDial covers everything up to an established TCP connection: nothing
// was sent, whatever the reason.
func classifyDial(f Fault) Fault {
	var dns *net.DNSError
	switch err := f.Err; {
	case isOutOfPorts(err):
		return f.local(LocalPorts)
	case isOutOfFiles(err):
		return f.local(LocalFiles)
	case isOutOfMemory(err):
		return f.local(LocalMemory)
	case errors.As(err, &dns):
		// A name that does not resolve is the resolver's or the
		// configuration's fault; another origin may have an address.
		f.Cause, f.Side, f.Weight = DNS, SideProxy, 0
	case isRefused(err), isNoSocket(err):
		f.Cause = Refused
	case isReset(err):
		f.Cause = Reset
	case isUnreachable(err):
		f.Cause, f.Side, f.Weight = Unreachable, SideNetwork, 0.5
	case isTimeout(err):
		f.Cause, f.Side = Timeout, SideNetwork
	default:
		f.Cause = Unknown
	}
	return f
}

// local is a shortage of this host. Another origin would not help, and no
// origin may be blamed.
func (f Fault) local(c Cause) Fault {
	f.Cause, f.Side, f.Weight, f.Safety = c, SideProxy, 0, Never
	return f
}

// classifyExchange covers everything after a connection was established.
func classifyExchange(f Fault, ev Evidence) Fault {
	f = causeOfExchange(f, ev).shareWithClient(ev)
	if f.Safety == Unprocessed && (ev.InBody || ev.Answered) {
		// An origin that has begun to answer has begun to act, whatever it says
		// afterwards.
		f.Safety = IfIdempotent
	}
	return f.weighStale(ev)
}

func causeOfExchange(f Fault, ev Evidence) Fault {
	if ev.Unprocessed {
		f.Cause, f.Weight, f.Safety = RefusedStream, 0, Unprocessed
		return f
	}
	if g, ok := classifyHTTP2(f); ok {
		return g
	}
	if g, ok := classifyQUIC(f); ok {
		return g
	}
	if cause, ok := tlsCause(f.Err); ok {
		// TLS 1.3 lets a server reject the client's certificate after the
		// handshake: then nothing is retried unless it could be anyway.
		f.Cause, f.Trip = cause, isCertificateAlert(f.Err)
		return f
	}
	switch kind := endOf(f, ev); {
	case kind == EndReset:
		f.Cause = Reset
	case kind == EndFIN:
		f.Cause = Closed
	case isTimedOut(f.Err):
		f.Cause, f.Side = Timeout, SideNetwork // the kernel gave up: nothing comes back
	case isTimeout(f.Err):
		f.Cause = Timeout
	case isProtocol(f.Err):
		f.Cause = Protocol
	case kind == EndTimer:
		f.Cause, f.Side = Timeout, SideNetwork
	case isHangup(f.Err, ev) && isAnswered(&f, ev):
		f.Cause = Protocol
	case isHangup(f.Err, ev):
		f.Cause = Closed
	default:
		f.Cause = Unknown
	}
	return f
}

// isHangup tells that net/http closed the connection while it was writing:
// because its reader could not make sense of the answer, or had come to an end
// which the connection has not seen. TLS ends with an alert; the FIN comes later.
func isHangup(err error, ev Evidence) bool {
	return ev.Conn != nil && !ev.InBody && errors.Is(err, net.ErrClosed)
}

// isGivenUp tells that net/http closed the connection while it was waiting for the
// answer: its writer had given the request up. Of the writer's error and of this,
// which follows from it, RoundTrip returns one by chance. A writer that the
// connection failed is told by the connection's own first event, which is not this.
func isGivenUp(err error, ev Evidence) bool {
	var op *net.OpError
	return ev.Conn != nil && !ev.Multiplexed && !ev.InBody && !ev.Answered && !ev.Shunned && ev.Conn.End().Kind == EndLocal &&
		errors.Is(err, net.ErrClosed) && errors.As(err, &op) && op.Op == "read"
}

// endOf prefers the connection's own first event over the error, which may only
// echo it.
func endOf(f Fault, ev Evidence) EndKind {
	if ev.Conn != nil {
		if k := ev.Conn.End().Kind; k == EndReset || k == EndFIN || k == EndTimer {
			return k
		}
	}
	switch {
	case isReset(f.Err):
		return EndReset
	case errors.Is(f.Err, io.EOF), errors.Is(f.Err, io.ErrUnexpectedEOF), isServerClosedIdle(f.Err):
		return EndFIN
	}
	return Alive
}

// shareWithClient recognises what a client's timing can bring about: servers end an
// upload of which nothing comes for a while, and an answer that is not taken; and so does
// this side's own limit of time. And by what it asks: some servers repeat it in their
// answer's header, which has a limit.
func (f Fault) shareWithClient(ev Evidence) Fault {
	switch {
	case f.Cause == Protocol:
		f.Provoked = isTooLarge(f.Err)
	case f.Cause != Reset && f.Cause != Closed && f.Cause != Timeout, f.Safety == Unsent, f.Safety == Unprocessed:
	case ev.InBody:
		f.Provoked = ev.Delayed >= clientPause || !ev.Uploaded && !ev.Multiplexed
	case !ev.Watched: // FastCGI, of which Caddy reads no answer before all is sent
		f.Provoked = !ev.Uploaded
	case ev.Answered, ev.Awaited < clientPause:
	case ev.Awaited >= clientSilence, f.Cause == Timeout:
		f.Side, f.Weight = SideClient, 0
	default:
		f.Provoked = true
	}
	return f
}

// weighStale spares origins that close idle connections. Nothing sent: the race
// that every keep-alive has. Something sent: most often the same race, sometimes
// a crash. Any other fault is not one of reuse.
func (f Fault) weighStale(ev Evidence) Fault {
	switch {
	case f.Phase != PhaseStale:
	case f.Side == SideClient:
		f.Phase = PhaseWrite
	case f.Cause != Reset && f.Cause != Closed:
		ev.Reused = false
		f.Phase = sendingPhase(&f, ev)
	case f.Safety == Unsent:
		f.Weight = 0
	default:
		f.Weight = 0.25
	}
	return f
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || isTimedOut(err) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
