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
	"upgrade to something":   "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: something\r\n\r\n",
	"upgrade to h2c":         "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
	"upgrade to many":        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: a, b\r\nUpgrade: c\r\n\r\n",
	"upgrade to websocket":   "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
	"connection headers":     "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: x-a, close\r\nX-A: b\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n",
	"options of a star":      "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"absolute form":          "GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"old version":            "GET / HTTP/1.0\r\n\r\n",
	"trailer of a length":    "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n",
	"trailer unannounced":    "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-B: \xff\r\n\r\n",
	"bad chunk":              "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"body of a GET":          "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
	"odd method":             "A!#$%&'*+-.^_`|~z / HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"odd host":               "GET / HTTP/1.1\r\nHost: !$&'()*+,;=.example\r\n\r\n",
	"get star":               "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"post star":              "POST * HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
	"opaque":                 "GET http:a.example HTTP/1.1\r\nHost: a\r\n\r\n",
	"absolute no path":       "GET http://a.example HTTP/1.1\r\nHost: a\r\n\r\n",
	"other absolute":         "GET urn:x:y HTTP/1.1\r\nHost: a\r\n\r\n",
	"connect":                "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
	"connect with body":      "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 3\r\n\r\nabc",
	"connect 1.0":            "CONNECT a.example:80 HTTP/1.0\r\nHost: a.example:80\r\n\r\n",
	"trailer with a control": "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1\r\na\r\n0\r\nX-A: a\x01b\r\n\r\n",
	"trailer TE":             "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: Te, Connection, Upgrade\r\n\r\n1\r\na\r\n0\r\nTe: gzip\r\nConnection: x\r\nUpgrade: y\r\n\r\n",
	"trailer pseudo":         "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: :status, Host, Authorization\r\n\r\n1\r\na\r\n0\r\nHost: gzip\r\n:status: 200\r\nAuthorization: x\r\n\r\n",
	"trailer unannounced TE": "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTe: gzip\r\nConnection: x\r\nTransfer-Encoding: a\r\nX: \xff\r\n\r\n",
	"trailer of nothing":     "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\nX-A: a\r\n\r\n",
	"get empty chunked":      "GET /x.php HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"expect empty":           "PUT /x.php HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
	"websocket post":         "POST /x.php HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 3\r\n\r\nabc",
	"non utf8 path":          "GET /\xff\xfe%ff.php/%fe HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"large header":           "GET /x.php HTTP/1.1\r\nHost: a.example\r\nX-A: " + strings.Repeat("a", 500<<10) + "\r\n\r\n",
	"many headers":           "GET /x.php HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X-A: b\r\n", 20000) + "\r\n",
	"bare zone":              "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n",
}

func TestOddRequestsAreTheClients(t *testing.T) {
	for _, kind := range []string{"h1", "h1 over TLS", "h2", "h2c", "h3"} {
		t.Run(kind, func(t *testing.T) {
			s := newServer(t)
			_, port, _ := net.SplitHostPort(s.addr)
			everyHost := fmt.Sprintf("}\nhttp://:%s {\n%s", port, guardOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					w.WriteHeader(http.StatusBadRequest)
				}
			}))
			s.load(t, s.config(t, "", "protocols h1 h2c", everyHost))
			ask := func(name string, send func() (string, error)) {
				t.Run(name, func(t *testing.T) {
					before := len(s.faults(t))
					for range 3 {
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
		})
	}
}

// guardOf is a guard of two origins that speak this.
func guardOf(t *testing.T, kind string, h http.HandlerFunc) string {
	var addrs [2]string
	for i := range addrs {
		srv := httptest.NewUnstartedServer(h)
		switch kind {
		case "h1", "h2c":
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetHTTP1(kind == "h1")
			srv.Config.Protocols.SetUnencryptedHTTP2(kind == "h2c")
			srv.Start()
		case "h2", "h1 over TLS":
			srv.EnableHTTP2 = kind == "h2"
			srv.StartTLS()
		case "h3":
			addrs[i] = "https://" + startHTTP3(t, h)
			continue
		}
		t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
		addrs[i] = srv.Listener.Addr().String()
		if srv.TLS != nil {
			addrs[i] = "https://" + addrs[i]
		}
	}
	transport := map[string]string{
		"h1 over TLS": "tls_insecure_skip_verify", "h2": "tls_insecure_skip_verify",
		"h2c": "versions h2c", "h3": "versions 3\n tls_insecure_skip_verify",
	}[kind]
	return "reset_guard " + join(addrs[:]...) + " {\n transport http {\n " + transport + "\n }\n failover {\n stall 3s\n }\n}"
}

// A 304 may say how long the body would be (RFC 9110 section 8.6).
func TestNotModifiedWithLength(t *testing.T) {
	for _, kind := range []string{"h1", "h1 over TLS", "h2", "h2c", "h3"} {
		t.Run(kind, func(t *testing.T) {
			s := serve(t, guardOf(t, kind, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				w.WriteHeader(http.StatusNotModified)
			}))
			expect(t, "status", s.get(t, "/").status, http.StatusNotModified)
			expect(t, "faults", len(s.faults(t)), 0)
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
