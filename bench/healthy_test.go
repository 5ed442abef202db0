// SPDX-License-Identifier: Apache-2.0

// Package bench measures what Reset Guard costs, beside the stock proxy and in
// the same run: only ratios mean anything on a shared machine.
package bench

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/resetguard/caddy-resetguard/caddymodule"
)

// answerSize is the body of every answer: a small API response.
const answerSize = 1 << 10

// proxies runs a Caddy with one site for each directive, all in front of the
// same origin, which stands in place of %s or at the end, and returns the sites'
// addresses.
func proxies(b *testing.B, directives ...string) []string {
	b.Helper()
	body := make([]byte, answerSize)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	}))
	b.Cleanup(origin.Close)
	config := "{\n\tadmin off\n\tpersist_config off\n\tlog {\n\t\toutput discard\n\t}\n}\n"
	var addrs []string
	for _, d := range directives {
		addr := freeAddr(b)
		addrs = append(addrs, addr)
		if !strings.Contains(d, "%s") {
			d += " %s"
		}
		config += fmt.Sprintf("http://%s {\n\t%s\n}\n", addr, fmt.Sprintf(d, origin.Listener.Addr()))
	}
	json, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := caddy.Load(json, true); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = caddy.Stop() })
	return addrs
}

func freeAddr(b testing.TB) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// client is one kept-alive connection that reads answers without allocating,
// so that what is counted is the proxy's.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func dial(b *testing.B, addr string) *client {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &client{conn: conn, r: bufio.NewReader(conn), request: []byte("GET / HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")}
}

// get sends a request and reads the answer, whose length is known.
func (c *client) get(b *testing.B) {
	if _, err := c.conn.Write(c.request); err != nil {
		b.Fatal(err)
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		if len(line) <= 2 {
			break
		}
	}
	if _, err := c.r.Discard(answerSize); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHealthy is one request after another on one connection.
func BenchmarkHealthy(b *testing.B) {
	addrs := proxies(b, "reverse_proxy", "reset_guard")
	for i, name := range []string{"stock", "reset_guard"} {
		b.Run(name, func(b *testing.B) {
			c := dial(b, addrs[i])
			c.get(b)
			b.ReportAllocs()
			for b.Loop() {
				c.get(b)
			}
		})
	}
}

// BenchmarkHealthyRatio is what reset_guard costs.
func BenchmarkHealthyRatio(b *testing.B) { ratio(b, "reverse_proxy", "reset_guard") }

// BenchmarkOverloadRatio is how much of that limits and pressure take.
func BenchmarkOverloadRatio(b *testing.B) {
	ratio(b, "reset_guard %s {\n\t\toverload off\n\t}", "reset_guard")
}

// ratio alternates between two proxies in short turns, so that what disturbs the
// machine disturbs both, and reports how much more the second takes. The times
// compared are the medians over all turns.
func ratio(b *testing.B, first, second string) {
	addrs := proxies(b, first, second)
	clients := [2]*client{dial(b, addrs[0]), dial(b, addrs[1])}
	const perTurn = 200
	for range perTurn {
		clients[0].get(b)
		clients[1].get(b)
	}
	var times [2][]time.Duration
	var allocs, bytes [2]uint64
	turns := 0
	for b.Loop() {
		for k := range 2 {
			i := (turns + k) % 2 // who goes first alternates as well
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			for range perTurn {
				clients[i].get(b)
			}
			times[i] = append(times[i], time.Since(start)/perTurn)
			runtime.ReadMemStats(&after)
			allocs[i] += after.Mallocs - before.Mallocs
			bytes[i] += after.TotalAlloc - before.TotalAlloc
		}
		turns++
	}
	one, other := median(times[0]), median(times[1])
	n := float64(turns * perTurn)
	b.ReportMetric(float64(one.Nanoseconds()), "ns/req")
	b.ReportMetric(float64((other - one).Nanoseconds()), "more-ns/req")
	b.ReportMetric(100*(float64(other)/float64(one)-1), "more-time-%")
	b.ReportMetric((float64(allocs[1])-float64(allocs[0]))/n, "more-allocs/req")
	b.ReportMetric((float64(bytes[1])-float64(bytes[0]))/n, "more-B/req")
	b.ReportMetric(float64(allocs[0])/n, "allocs/req")
}
