// SPDX-License-Identifier: Apache-2.0

// Requests that a server accepts and net/http's client will not pass on as they are,
// or that no origin has a use for: whatever becomes of them is the client's doing.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

var oddRequests = map[string][][2]string{ // over HTTP/2, added to or instead of the usual fields
	"host of two words":     {{":authority", "a b"}},
	"host with a path":      {{":authority", "a/b"}},
	"host that is no UTF-8": {{":authority", "\xff.example"}},
	"host with a bad label": {{":authority", "xn--\u00fc.example"}},
	"host with a long one":  {{":authority", strings.Repeat("\u00fc", 300)}},
	"host with a control":   {{":authority", "a\x01b"}},
	"host with brackets":    {{":authority", "[::1"}},
	"no host":               {{":authority", ""}},
	"path of a star":        {{":path", "*"}},
	"absolute path":         {{":path", "http://a.example/b"}},
	"two slashes":           {{":path", "//a.example/b"}},
	"bad escape":            {{":path", "/%zz"}},
	"escaped control":       {{":path", "/%0d%0a?%00"}},
	"other scheme":          {{":scheme", "ftp"}},
	"lower-case method":     {{":method", "get"}},
	"connect":               {{":method", "CONNECT"}},
	"extended connect":      {{":method", "CONNECT"}, {":protocol", "foo"}},
	"protocol without":      {{":protocol", "websocket"}},
	"trailer of a length":   {{"trailer", "Content-Length"}},
	"trailer that is none":  {{"trailer", "not a name"}},
	"te":                    {{"te", "trailers, deflate"}},
	"odd octets in a value": {{"x-odd", "a\x80\xff\tb"}},
	"expectation":           {{"expect", "a-miracle"}},
	"length of nothing":     {{"content-length", "0"}},
	"many cookies":          {{"cookie", strings.Repeat("a=b; ", 1500)}},
}

var oddTexts = map[string]string{ // over HTTP/1.1
	"upgrade to something": "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: something\r\n\r\n",
	"upgrade to h2c":       "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
	"upgrade to many":      "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: a, b\r\nUpgrade: c\r\n\r\n",
	"upgrade to websocket": "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
	"connection headers":   "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: x-a, close\r\nX-A: b\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n",
	"options of a star":    "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"absolute form":        "GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"old version":          "GET / HTTP/1.0\r\n\r\n",
	"trailer of a length":  "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n",
	"trailer unannounced":  "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-B: \xff\r\n\r\n",
	"bad chunk":            "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"body of a GET":        "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
	"odd method":           "A!#$%&'*+-.^_`|~z / HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"odd host":             "GET / HTTP/1.1\r\nHost: !$&'()*+,;=.example\r\n\r\n",
	"bare zone":            "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n",
}

func TestOddRequestsAreTheClients(t *testing.T) {
	for _, protocol := range []faultinject.Protocol{faultinject.H1, faultinject.H2C} {
		t.Run(string(protocol), func(t *testing.T) {
			leaveNothing(t)
			origins := []*faultinject.Origin{
				startOrigin(t, faultinject.Config{Protocol: protocol}), startOrigin(t, faultinject.Config{Protocol: protocol}),
			}
			block := "reset_guard " + join(addrsOf(origins)...)
			if protocol == faultinject.H2C {
				block += " {\n transport http {\n versions h2c\n }\n}"
			}
			s := newServer(t)
			_, port, _ := net.SplitHostPort(s.addr)
			everyHost := fmt.Sprintf("}\nhttp://:%s {\n%s", port, block)
			s.load(t, s.config(t, "", "protocols h1 h2c", everyHost))
			ask := func(name string, send func() (string, error)) {
				t.Run(name, func(t *testing.T) {
					before := len(s.faults(t))
					for range 12 { // enough to eject, if they counted
						answer, err := send()
						if err != nil {
							t.Fatal(err)
						}
						if strings.HasPrefix(answer, "5") && answer != "501" {
							t.Errorf("the answer is %s, want none that is the server's fault", answer)
						}
					}
					for _, l := range s.faults(t)[before:] {
						if l.text("side") != "client" {
							t.Fatalf("a client's doing was told as a fault: %v", l)
						}
					}
				})
			}
			for name, fields := range oddRequests {
				ask(name, func() (string, error) { return s.askH2(fields) })
			}
			for name, text := range oddTexts {
				ask(name+" over HTTP/1", func() (string, error) { return s.askText(text) })
			}
			expect(t, "ejections", len(s.told(t, "upstream ejected")), 0)
			expect(t, "pool faults", len(s.told(t, "all upstreams fail alike")), 0)
		})
	}
}

// More header than an HTTP/2 origin takes (SETTINGS_MAX_HEADER_LIST_SIZE) is not sent.
func TestTooMuchHeaderIsTheClients(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.MaxHeaderBytes = 2 << 10
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	s := serve(t, "reset_guard "+srv.Listener.Addr().String()+" {\n transport http {\n versions h2c\n }\n}")
	for range 12 {
		req := newRequest(t, http.MethodGet, s.url("/"), nil)
		expect(t, "status", do(t, http.DefaultClient, req).status, http.StatusOK)
		req = newRequest(t, http.MethodGet, s.url("/"), nil)
		req.Header.Set("Cookie", "a="+strings.Repeat("b", 8<<10))
		expect(t, "status with a large cookie", do(t, http.DefaultClient, req).status, http.StatusBadRequest)
	}
	for _, l := range s.faults(t) {
		if l.text("side") != "client" {
			t.Fatalf("a client's doing was told as a fault: %v", l)
		}
	}
}

// askText returns the status of the answer to text, or "closed".
func (s *server) askText(text string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	_ = res.Body.Close()
	return strconv.Itoa(res.StatusCode), nil
}

// askH2 sends a GET with fields added or replaced on a connection of its own and
// returns the status of the answer, or the code with which the stream or the
// connection is ended.
func (s *server) askH2(fields [][2]string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return "", err
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		return "", err
	}
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	usual := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", s.addr}, {":path", "/"}}
	for _, field := range append(override(usual, fields), fields...) {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return "", err
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		return "", err
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "", err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status"), nil
		case *http2.RSTStreamFrame:
			return fmt.Sprint("stream ", frame.ErrCode), nil
		case *http2.GoAwayFrame:
			return fmt.Sprint("connection ", frame.ErrCode), nil
		}
	}
}

// override leaves out of usual what others give; pseudo fields come first.
func override(usual, others [][2]string) (left [][2]string) {
	for _, field := range usual {
		given := false
		for _, other := range others {
			given = given || other[0] == field[0]
		}
		if !given {
			left = append(left, field)
		}
	}
	return left
}
