// SPDX-License-Identifier: Apache-2.0

// An HTTP/2 origin that ends its connections in good order does nothing wrong.

package caddymodule_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// goingAway answers the first request of each connection. The second one it
// refuses with a GOAWAY that says so, as an origin does that limits how long or
// how often a connection is used.
func goingAway(answered *atomic.Int32) func(c net.Conn) {
	return func(c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		fr := http2.NewFramer(c, c)
		_ = fr.WriteSettings()
		for {
			frame, err := fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = fr.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					_ = fr.WritePing(true, f.Data)
				}
			case *http2.HeadersFrame:
				if f.StreamID > 1 {
					_ = fr.WriteGoAway(1, http2.ErrCodeNo, nil)
					continue
				}
				answered.Add(1)
				var block bytes.Buffer
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			}
		}
	}
}

func TestGracefulGoAwayIsNoFailure(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, c := range []struct {
			method string
			size   int
		}{
			{http.MethodGet, 0},
			{http.MethodPost, 0},
			{http.MethodPut, 10_000},
		} {
			t.Run(fmt.Sprintf("tls=%v %s %d", secure, c.method, c.size), func(t *testing.T) {
				leaveNothing(t)
				var answered atomic.Int32
				serveConn, scheme, options := goingAway(&answered), "h2c://", ""
				if secure {
					srv := httptest.NewUnstartedServer(nil)
					srv.EnableHTTP2 = true
					_ = startHTTPS(t, srv)
					scheme, options = "https://", trustPool(srv)
					plain := serveConn
					serveConn = func(c net.Conn) { plain(tls.Server(c, srv.TLS)) }
				}
				s := serve(t, fmt.Sprintf("%s %s%s {\n fail_duration 30s\n max_fails 1\n %s\n transport http {\n %s\n }\n }",
					guarded, scheme, tcpOrigin(t, serveConn), failsHeader, options))
				const requests = 6
				for range requests {
					got := do(t, newClient(t), newRequest(t, c.method, s.url("/"), bytes.NewReader(make([]byte, c.size))))
					expect(t, "status", got.status, http.StatusOK)
					expect(t, "failures", got.header.Get("X-Fails"), "0")
				}
				expect(t, "answers", answered.Load(), requests)
				for _, l := range s.faults(t) {
					expect(t, "level", l.text("level"), "info")
					expect(t, "cause", l.text("cause"), "goaway")
					expect(t, "action", l.text("action"), "retried")
				}
			})
		}
	}
}
