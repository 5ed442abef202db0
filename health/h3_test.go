// SPDX-License-Identifier: Apache-2.0

// Faults of HTTP/3. Connections of QUIC are not watched, so only the errors
// tell.

package health_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/resetguard/caddy-resetguard/health"
)

// unwatched is what a fault means of which nothing but the error is known.
func unwatched(cause health.Cause, weight float64, safety health.Safety) want {
	return want{cause: cause, side: health.SideUpstream, weight: weight, safety: safety}
}

var h3Cases = []faultCase{
	{"h3", "H3_REQUEST_REJECTED", h3Stream(http3.ErrCodeRequestRejected), unwatched(health.RefusedStream, 0, health.Unprocessed)},
	{"h3", "H3_INTERNAL_ERROR", h3Stream(http3.ErrCodeInternalError), unwatched(health.Reset, 1, health.IfIdempotent)},
	{"h3", "H3_REQUEST_CANCELLED", h3Stream(http3.ErrCodeRequestCanceled), unwatched(health.Reset, 1, health.IfIdempotent)},
	{"h3", "H3_MESSAGE_ERROR", h3Stream(http3.ErrCodeMessageError), unwatched(health.Protocol, 1, health.IfIdempotent)},
	{"h3", "closed with H3_NO_ERROR", h3Close(http3.ErrCodeNoError), unwatched(health.GoAway, 0, health.IfIdempotent)},
	{"h3", "closed with H3_EXCESSIVE_LOAD", h3Close(http3.ErrCodeExcessiveLoad), unwatched(health.Overloaded, 0, health.IfIdempotent)},
	{
		"h3", "H3_REQUEST_REJECTED after the answer has begun", h3RejectAnswered,
		want{cause: health.RefusedStream, phases: at(health.PhaseBody), side: health.SideUpstream, safety: health.IfIdempotent},
	},
	{
		"h3", "certificate from an unknown authority", h3Untrusted,
		want{
			cause: health.TLSUntrusted, phases: at(health.PhaseTLS), side: health.SideUpstream,
			weight: 1, trip: true, safety: health.Unsent,
		},
	},
	{"h3", "no protocol in common", h3Strange, unwatched(health.TLSHandshake, 1, health.IfIdempotent)},
	{"h3", "connection refused", h3Refused, unwatched(health.Refused, 1, health.Unprocessed)},
	{
		"h3", "silence after the request", h3Vanish,
		want{cause: health.Timeout, side: health.SideNetwork, weight: 1, safety: health.IfIdempotent},
	},
	{"h3", "stateless reset", h3Restart, unwatched(health.Reset, 1, health.IfIdempotent)},
}

func TestClassifyHTTP3(t *testing.T) { runCases(t, h3Cases) }

// quicPeer is a QUIC server; serve has each of its connections.
type quicPeer struct {
	cfg   quic.Config
	alpn  string
	key   *quic.StatelessResetKey
	serve func(conn *quic.Conn)
}

func (p quicPeer) start(t *testing.T) (pc net.PacketConn, client *http3.Transport) {
	t.Helper()
	cert, roots := newCertificate(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: pc, StatelessResetKey: p.key}
	ln, err := tr.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{p.alpn}}, &p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := ln.Accept(t.Context())
			if err != nil {
				return
			}
			if p.serve != nil {
				p.serve(conn)
			}
		}
	}()
	client = &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(func() {
		_ = client.Close()
		_ = ln.Close()
		_ = tr.Close()
		_ = pc.Close()
		<-served
	})
	return pc, client
}

// conversation is a request to a quicPeer.
type conversation struct {
	body     io.Reader // nil: none
	answered func()    // called when the header of an answer has come
}

// askH3 sends a request to the peer and classifies its error.
func askH3(t *testing.T, pc net.PacketConn, rt *http3.Transport, c conversation) health.Fault {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+pc.LocalAddr().String(), c.body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := rt.RoundTrip(req)
	ev := health.Evidence{Uploaded: true}
	if err == nil {
		ev.InBody = true
		if c.answered != nil {
			c.answered()
		}
		_, err = io.Copy(io.Discard, res.Body)
	}
	if err == nil {
		t.Fatal("got an answer, want an error")
	}
	return health.Classify(err, ev)
}

// serveStream lets peer have the first stream of a connection.
func serveStream(peer func(conn *quic.Conn, s *quic.Stream)) quicPeer {
	return quicPeer{alpn: http3.NextProtoH3, serve: func(conn *quic.Conn) {
		if s, err := conn.AcceptStream(conn.Context()); err == nil {
			peer(conn, s)
		}
	}}
}

func h3Stream(code http3.ErrCode) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		pc, rt := serveStream(func(_ *quic.Conn, s *quic.Stream) {
			s.CancelRead(quic.StreamErrorCode(code))
			s.CancelWrite(quic.StreamErrorCode(code))
		}).start(t)
		return askH3(t, pc, rt, conversation{})
	}
}

func h3Close(code http3.ErrCode) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		pc, rt := serveStream(func(conn *quic.Conn, _ *quic.Stream) {
			_ = conn.CloseWithError(quic.ApplicationErrorCode(code), "")
		}).start(t)
		return askH3(t, pc, rt, conversation{})
	}
}

// h3RejectAnswered refuses a stream of which the client has got the header.
func h3RejectAnswered(t *testing.T) health.Fault {
	answered := make(chan struct{})
	pc, rt := serveStream(func(_ *quic.Conn, s *quic.Stream) {
		// HEADERS of 3 bytes: no dynamic table, and ":status: 200" of the static
		// one (RFC 9114 section 7.2.2, RFC 9204 section 4.5 and appendix A).
		_, _ = s.Write([]byte{0x01, 0x03, 0x00, 0x00, 0xc0 | 25})
		select {
		case <-answered:
		case <-s.Context().Done():
		}
		s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
	}).start(t)
	return askH3(t, pc, rt, conversation{answered: func() { close(answered) }})
}

func h3Untrusted(t *testing.T) health.Fault {
	pc, rt := quicPeer{alpn: http3.NextProtoH3}.start(t)
	rt.TLSClientConfig = nil
	return askH3(t, pc, rt, conversation{})
}

func h3Strange(t *testing.T) health.Fault {
	pc, rt := quicPeer{alpn: "gopher"}.start(t)
	return askH3(t, pc, rt, conversation{})
}

func h3Refused(t *testing.T) health.Fault {
	p := quicPeer{alpn: http3.NextProtoH3}
	p.cfg.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) { return nil, errors.New("no") }
	pc, rt := p.start(t)
	return askH3(t, pc, rt, conversation{})
}

// An origin that answers no packet at all. QUIC takes it for a handshake that
// failed or for one that fell silent, which says less: whichever timer was first.
func TestClassifyHTTP3Silence(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // nobody reads
	if err != nil {
		t.Fatal(err)
	}
	rt := &http3.Transport{QUICConfig: &quic.Config{HandshakeIdleTimeout: 50 * time.Millisecond}}
	t.Cleanup(func() {
		_ = rt.Close()
		_ = pc.Close()
	})
	f := askH3(t, pc, rt, conversation{})
	w := unwatched(health.Timeout, 1, health.IfIdempotent)
	var handshake *quic.HandshakeTimeoutError
	if w.side = health.SideNetwork; errors.As(f.Err, &handshake) {
		w.phases, w.safety = at(health.PhaseDial), health.Unsent
	}
	w.check(t, f)
}

// h3Vanish takes the socket away from under a server that has got a request.
func h3Vanish(t *testing.T) health.Fault {
	got := make(chan struct{})
	pc, rt := serveStream(func(*quic.Conn, *quic.Stream) { close(got) }).start(t)
	rt.QUICConfig = &quic.Config{MaxIdleTimeout: 300 * time.Millisecond}
	go func() {
		<-got
		_ = pc.Close()
	}()
	return askH3(t, pc, rt, conversation{})
}

// h3Restart restarts a server that has got a request: the new one does not know
// the connection and says so.
func h3Restart(t *testing.T) health.Fault {
	got := make(chan struct{})
	p := serveStream(func(*quic.Conn, *quic.Stream) { close(got) })
	p.key = &quic.StatelessResetKey{1, 2, 3}
	pc, rt := p.start(t)
	body, more := io.Pipe()
	t.Cleanup(func() { _ = more.Close() })
	go func() {
		_, _ = more.Write([]byte("part"))
		<-got
		_ = pc.Close()
		again, err := net.ListenPacket("udp", pc.LocalAddr().String())
		if err != nil {
			t.Errorf("listening again: %v", err)
			return
		}
		defer func() { _ = again.Close() }()
		tr := &quic.Transport{Conn: again, StatelessResetKey: p.key}
		defer func() { _ = tr.Close() }()
		go func() { _, _ = more.Write(make([]byte, 5000)) }()
		_, _, _ = tr.ReadNonQUICPacket(t.Context(), make([]byte, 1500)) // none comes
	}()
	return askH3(t, pc, rt, conversation{body: body})
}
