// SPDX-License-Identifier: Apache-2.0

// How much of a body came together with its header. Too high a number would let
// a reader wait who was promised not to have to.

package health

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

var bodyTable = []struct {
	name, read string
	want       int64
}{
	{"header only", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0},
	{"header and body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 5},
	{"HTTP/1.0", "HTTP/1.0 404 Not Found\r\n\r\nno", 2},
	{"empty line in the body", "HTTP/1.1 200 OK\r\n\r\na\r\n\r\nb", 6},
	{"no field", "HTTP/1.1 500 X\r\n\r\n", 0},
	{"part of a header", "HTTP/1.1 200 OK\r\nContent-Le", unknownBody},
	{"part of the last line", "HTTP/1.1 200 OK\r\nA: b\r\n\r", unknownBody},
	{"header without carriage returns", "HTTP/1.1 200 OK\nA: b\n\nhello", unknownBody},
	{"interim response", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", unknownBody},
	{"continue", "HTTP/1.1 100 Continue\r\n\r\n", unknownBody},
	{"TLS", "\x17\x03\x03\x00\x10\r\n\r\nabcdefghijkl", unknownBody},
	{"HTTP/2 settings", "\x00\x00\x00\x04\x00\x00\x00\x00\x00", unknownBody},
	{"nothing", "", unknownBody},
	{"less than a status line", "HTTP/1.1 ", unknownBody},
}

func TestBodyAfterHeader(t *testing.T) {
	for _, tc := range bodyTable {
		if got := bodyAfterHeader([]byte(tc.read)); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

// Only the first read after AwaitHeader tells.
func TestBodySeen(t *testing.T) {
	raw, peer := tcpPair(t)
	c := WatchConn(raw)
	buf := make([]byte, 1000)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(peer, text); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || n != len(text) {
			t.Fatalf("got %d bytes, %v; want %d", n, err, len(text))
		}
	}
	expect := func(when string, want int64) {
		t.Helper()
		if got := c.BodySeen(); got != want {
			t.Errorf("%s: got %d, want %d", when, got, want)
		}
	}
	c.AwaitHeader()
	expect("before the answer", unknownBody)
	say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	expect("with the first answer", 5)
	say("HTTP/1.1 201 this is the rest of the body\r\n\r\nand more")
	expect("with more of the body", 5)
	c.AwaitHeader()
	expect("before the second answer", unknownBody)
	say("HTTP/1.1 200 OK\r\n")
	expect("with a part of the second header", unknownBody)
	say("\r\nhello")
	expect("with the rest of it", unknownBody)
}

// FuzzBodyAfterHeader never promises more than net/http finds behind a header.
func FuzzBodyAfterHeader(f *testing.F) {
	for _, tc := range bodyTable {
		f.Add([]byte(tc.read))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		n := bodyAfterHeader(p)
		if n < unknownBody || n > int64(len(p)) {
			t.Fatalf("got %d of %d bytes", n, len(p))
		}
		if n == unknownBody {
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(p), len(p)+16)
		if _, err := http.ReadResponse(br, nil); err != nil {
			return // nobody will read a body
		}
		if left := int64(br.Buffered()); n > left {
			t.Errorf("promised %d bytes, net/http finds %d behind the header of %q", n, left, p)
		}
	})
}
