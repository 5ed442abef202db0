// SPDX-License-Identifier: Apache-2.0

// Uploads that an origin ends early: by an answer, or by a reset while the
// client still asks whether it may send.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// A client that asks before it uploads gets an answer to its question, and one
// that was told to go on gets the answer to the whole.
func TestExpectContinueAndFaults(t *testing.T) {
	body := faultinject.Bytes(100_000)
	sum := sha256.Sum256(body)
	for _, fault := range []faultinject.Fault{
		faultinject.Refuse, faultinject.ResetOnAccept, faultinject.ResetAfterHeader, faultinject.ResetInUpload, faultinject.CloseInUpload, faultinject.CloseAfterRequest,
	} {
		for _, another := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s another=%v", fault, another), func(t *testing.T) {
				leaveNothing(t)
				upstreams := startOrigin(t, faultinject.Config{Fault: fault}).Addr()
				if another {
					upstreams = join(upstreams, startOrigin(t, faultinject.Config{}).Addr())
				}
				s := serve(t, fmt.Sprintf("%s %s {\n lb_policy first\n failover {\n attempts 2\n }\n transport http {\n expect_continue_timeout 50ms\n }\n }", guarded, upstreams))
				for _, method := range []string{http.MethodPut, http.MethodPost} {
					got := uploadAfterAsking(t, s, method, body)
					switch {
					case got.status == http.StatusOK && another:
						expect(t, method+": hash of the body that the origin got", got.header.Get("X-Body-Sha256"), hex.EncodeToString(sum[:]))
					case another && method == http.MethodPut:
						t.Errorf("%s: got status %d, want 200: this request may be sent again", method, got.status)
					default:
						expect(t, method+": status", got.status, http.StatusBadGateway)
					}
				}
			})
		}
	}
}

// uploadAfterAsking sends the body when it is told to, and only then.
func uploadAfterAsking(t *testing.T, s *server, method string, body []byte) answer {
	t.Helper()
	c, r := dialSite(t, s)
	defer c.Close()
	fmt.Fprintf(c, "%s /x HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", method, len(body))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("%s: the question was not answered: %v", method, err)
	}
	if res.StatusCode != http.StatusContinue {
		return readAnswer(t, res)
	}
	if _, err := c.Write(body); err != nil {
		t.Fatalf("%s: the upload broke off: %v", method, err)
	}
	return readFinal(t, r)
}

// What request_buffers has read lies in a buffer that Caddy's proxy uses again
// for the next request, while an answer that came early leaves somebody reading.
func TestEarlyAnswersAndRequestBuffers(t *testing.T) {
	for _, size := range []string{"1MiB", "10KiB"} {
		for name, ending := range map[string]string{
			"answered": "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
			"broken":   "",
		} {
			t.Run(name+" "+size, func(t *testing.T) {
				leaveNothing(t)
				early := tcpOrigin(t, func(c net.Conn) {
					req, err := http.ReadRequest(bufio.NewReader(c))
					if err != nil {
						return
					}
					_, _ = io.CopyN(io.Discard, req.Body, 20_000)
					_, _ = io.WriteString(c, ending)
				})
				whole := origin(t, wantOneByte)
				s := serve(t, fmt.Sprintf("@whole path /whole\n%[1]s @whole %[2]s {\n request_buffers %[4]s\n }\n%[1]s %[3]s {\n request_buffers %[4]s\n %[5]s\n }",
					guarded, whole, early, size, once))
				uploadFromMany(t, s)
			})
		}
	}
}

// uploadFromMany uploads bodies of one byte each, which mix if they meet.
func uploadFromMany(t *testing.T, s *server) {
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			body := bytes.Repeat([]byte{byte('a' + worker)}, 200_000)
			client := newClient(t)
			for i := range 10 {
				path := []string{"/whole", "/early"}[i%2]
				res, err := client.Do(newRequest(t, http.MethodPost, s.url(path), bytes.NewReader(body), "X-Byte", string(body[:1])))
				if err != nil {
					if path == "/whole" {
						t.Errorf("%s: %v", path, err)
					}
					continue // an early answer need not reach who is still sending
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if path == "/whole" && (err != nil || string(got) != strconv.Itoa(len(body))) {
					t.Errorf("%s: the origin got %q, want %d bytes: %v", path, got, len(body), err)
				}
			}
		})
	}
	wg.Wait()
}

// wantOneByte tells how much of the byte that the header names has come.
func wantOneByte(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprint(w, bytes.Count(body, []byte(r.Header.Get("X-Byte"))))
}

// A client that uploads without end gets the answer in the midst of it, and is
// not listened to for ever.
func TestAnswerEndsEndlessUpload(t *testing.T) {
	leaveNothing(t)
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetAfterHeader})
	s := serve(t, "log\n"+guarded+" "+bad.Addr())
	for _, framing := range []string{"Content-Length: 1000000000000", "Transfer-Encoding: chunked"} {
		c, r := dialSite(t, s)
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n\r\n", framing)
		refused := make(chan int64, 1)
		go func() {
			chunk := append([]byte("10000\r\n"), make([]byte, 0x10000)...)
			chunk = append(chunk, "\r\n"...)
			var sent int64
			for {
				n, err := c.Write(chunk)
				if sent += int64(n); err != nil {
					refused <- sent
					return
				}
			}
		}()
		got := readFinal(t, r)
		expect(t, framing+": status", got.status, http.StatusBadGateway)
		sent := receive(t, "the end of the upload", refused)
		if limit := int64(64<<20 + 16<<20); sent > limit { // with what lies in buffers
			t.Errorf("%s: %d bytes were taken after the answer, want at most %d", framing, sent, limit)
		}
		_ = c.Close()
	}
}
