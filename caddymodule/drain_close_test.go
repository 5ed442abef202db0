// SPDX-License-Identifier: Apache-2.0

// What becomes of a connection whose client leaves its upload unfinished.

package caddymodule_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// A client that gets its answer in the middle of an upload and leaves: net/http
// would find a read under way where it looks for the next request, and panic.
func TestClientThatLeavesItsUploadAfterTheAnswer(t *testing.T) {
	for _, directives := range []string{"", "handle_errors {\n respond ours\n }"} {
		t.Run(directives, func(t *testing.T) { leaveUploads(t, directives) })
	}
}

func leaveUploads(t *testing.T, directives string) {
	t.Helper()
	bad := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1)) // the upload has begun to be read
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	})
	s := serve(t, "log\n"+guarded+" "+bad+"\n"+directives)
	const clients = 10
	for range clients {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\nx", s.addr)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "status", res.StatusCode, http.StatusBadGateway)
		_ = conn.Close()
	}
	s.accessStatus(t, clients)
	if err := caddy.Stop(); err != nil { // waits for the connections
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(text, []byte("panic")); i >= 0 {
		t.Errorf("the log tells of a panic: %s", text[max(0, i-300):min(len(text), i+3000)])
	}
}
