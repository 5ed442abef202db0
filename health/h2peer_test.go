// SPDX-License-Identifier: Apache-2.0

// HTTP/2 peers that say what no server of good will would say.

package health_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/resetguard/caddy-resetguard/health"
)

// framer answers a request frame by frame. It says whether to close then.
type framer func(fr *http2.Framer, stream uint32) (end bool)

// startFramer answers requests, and nothing else but the client's settings.
func startFramer(t *testing.T, answer framer) string {
	t.Helper()
	return startPeer(t, func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(c, c)
		_ = fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = fr.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				if answer(fr, f.StreamID) {
					_ = c.CloseWrite()
					drain(c)
				}
			}
		}
	})
}

func writeHeader(fr *http2.Framer, stream uint32, status string) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
}

// ask sends a request over unencrypted HTTP/2 to a peer.
func ask(fl flavour, s send, answer framer) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		return fl.client(t, nil).try(t, "http://"+startFramer(t, answer), s).fault(t)
	}
}

func framerCases(fl flavour) []faultCase {
	deaf := fl
	deaf.prepare = func(c *client) error {
		c.HTTP2 = &http.HTTP2Config{SendPingTimeout: 20 * time.Millisecond, PingTimeout: 20 * time.Millisecond}
		return fl.prepare(c)
	}
	return []faultCase{
		{
			"h2_dead_path", fl.name + "/pings without answers",
			ask(deaf, send{}, func(*http2.Framer, uint32) bool { return false }),
			want{cause: health.Timeout, phases: at(health.PhaseWait), side: health.SideNetwork, weight: 1, safety: health.IfIdempotent},
		},
		{
			"h2_calm", fl.name + "/GOAWAY before the stream",
			ask(fl, send{}, func(fr *http2.Framer, _ uint32) bool {
				_ = fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
				return false
			}),
			refused(health.Overloaded),
		},
		{
			"h2_drain", fl.name + "/GOAWAY with an error before the stream",
			ask(fl, send{}, func(fr *http2.Framer, _ uint32) bool {
				_ = fr.WriteGoAway(0, http2.ErrCodeInternal, nil)
				return false
			}),
			refused(health.GoAway),
		},
		{
			// What an origin writes cannot make a request look unprocessed.
			"h2_drain", fl.name + "/GOAWAY with the text of another error",
			ask(fl, send{}, func(fr *http2.Framer, stream uint32) bool {
				text := "http2: Transport: cannot retry err [REFUSED_STREAM] http2: Transport received GOAWAY from server"
				_ = fr.WriteGoAway(stream, http2.ErrCodeNo, []byte(text))
				return true
			}),
			calm(health.GoAway),
		},
		{
			"h2_refused", fl.name + "/REFUSED_STREAM after the answer has begun",
			ask(fl, send{}, func(fr *http2.Framer, stream uint32) bool {
				writeHeader(fr, stream, "200")
				_ = fr.WriteData(stream, false, []byte("begun"))
				_ = fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
				return false
			}),
			want{cause: health.RefusedStream, phases: at(health.PhaseBody), side: health.SideUpstream, safety: health.IfIdempotent},
		},
		{
			"h2_opaque", fl.name + "/REFUSED_STREAM after an interim answer",
			ask(fl, send{upload: 10}, func(fr *http2.Framer, stream uint32) bool {
				writeHeader(fr, stream, "103")
				_ = fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
				return false
			}),
			want{cause: health.RefusedStream, phases: at(health.PhaseHeaders), side: health.SideUpstream, safety: health.IfIdempotent},
		},
		{
			"bad_response", fl.name + "/frame that no stream may have",
			ask(fl, send{}, func(fr *http2.Framer, _ uint32) bool {
				fr.AllowIllegalWrites = true
				_ = fr.WriteData(0, false, nil)
				return false
			}),
			acted(health.Protocol, health.PhaseWait),
		},
		{
			"bad_response", fl.name + "/header without a status",
			ask(fl, send{upload: 10}, func(fr *http2.Framer, stream uint32) bool {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: true})
				return false
			}),
			acted(health.Protocol, health.PhaseWait, health.PhaseHeaders),
		},
		{
			"h2_conn_lost", fl.name + "/close while an upload waits to go on",
			ask(fl, send{upload: 1 << 20}, func(*http2.Framer, uint32) bool { return true }),
			acted(health.Closed, health.PhaseWrite, health.PhaseWait),
		},
		{
			"h2_stream_reset", fl.name + "/PROTOCOL_ERROR in the body",
			ask(fl, send{}, func(fr *http2.Framer, stream uint32) bool {
				writeHeader(fr, stream, "200")
				_ = fr.WriteRSTStream(stream, http2.ErrCodeProtocol)
				return false
			}),
			acted(health.Protocol, health.PhaseBody),
		},
	}
}

func allFramerCases() []faultCase {
	var all []faultCase
	for _, fl := range flavours {
		if fl.protocol == "h2c" {
			all = append(all, framerCases(fl)...)
		}
	}
	return all
}

func TestClassifyHTTP2Frames(t *testing.T) { runCases(t, allFramerCases()) }
