// SPDX-License-Identifier: Apache-2.0

// Answers that nobody reads to their end.

package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// An answer that handle_response replaces is closed unread while the hold may still be
// reading on: that must not meet another request's.
func TestAnswersClosedUnread(t *testing.T) {
	for name, header := range map[string]string{"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "length": "Content-Length: 100\r\n\r\nhello"} {
		t.Run(name, func(t *testing.T) {
			o := tcpOrigin(t, func(c net.Conn) {
				br := bufio.NewReader(c)
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 404 Not Found\r\n%s", header)
				_, _ = io.Copy(io.Discard, c)
			})
			s := serve(t, "reset_guard "+o+" {\n@e status 404\nhandle_response @e {\nrespond gone 404\n}\n}")
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 40 {
						if a := s.get(t, "/"); a.status != 404 {
							t.Error(a.status)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
