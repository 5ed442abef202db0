// SPDX-License-Identifier: Apache-2.0

// Trailers are filled in by whoever reads a body to its end. With others looking
// at the same time the race detector, or the runtime, ends this.

package caddymodule_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// fromMany calls send from several goroutines.
func fromMany(send func(worker, i int)) {
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 25 {
				send(worker, i)
			}
		})
	}
	wg.Wait()
}

// startEither serves HTTP/1 and h2c.
func startEither(t *testing.T, handler http.HandlerFunc) string {
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	return startHTTP(t, srv)
}

// The end of a response, trailers included, comes while its start is held, just
// after it, or much later.
func TestResponseTrailersRace(t *testing.T) {
	for _, scheme := range []string{"", "h2c://"} {
		t.Run("to "+scheme, func(t *testing.T) {
			leaveNothing(t)
			addr := startEither(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				_, _ = io.WriteString(w, "hello")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(500*time.Microsecond + rand.N(time.Millisecond)) // about as long as the start is held
				w.Header().Set("X-Sum", "42")
			})
			s := serve(t, fmt.Sprintf("%s %s%s {\n failover {\n hold 64KiB 1ms\n }\n }", guarded, scheme, addr))
			client := newClient(t)
			fromMany(func(int, int) {
				res, err := client.Do(newRequest(t, http.MethodGet, s.url("/"), nil))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" || res.Trailer.Get("X-Sum") != "42" {
					t.Errorf("got %q, trailer %v, %v", body, res.Trailer, err)
				}
			})
		})
	}
}

// The end of an upload, trailers included, comes while the error routes are
// looked through, or at work.
func TestRequestTrailersRace(t *testing.T) {
	for _, fault := range []faultinject.Fault{faultinject.ResetAfterHeader, faultinject.ResetInUpload, faultinject.CloseAfterRequest} {
		for name, route := range map[string]string{
			"answer": "@p path /nowhere\n respond @p no",
			"page":   "respond \"page {err.status_code}\"",
			"proxy":  "reverse_proxy FALLBACK {\n method GET\n }",
			"guard":  "reset_guard FALLBACK",
		} {
			t.Run(string(fault)+" "+name, func(t *testing.T) {
				leaveNothing(t)
				bad := startOrigin(t, faultinject.Config{Fault: fault})
				route := strings.ReplaceAll(route, "FALLBACK", origin(t, tellTrailers))
				s := serve(t, fmt.Sprintf("handle_errors {\n %s\n }\n%s %s {\n %s\n }", route, guarded, bad.Addr(), once))
				fromMany(func(worker, i int) {
					c, r := dialSite(t, s)
					defer c.Close()
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
					for range i % 5 { // the end comes sooner or later
						fmt.Fprintf(c, "400\r\n%s\r\n", make([]byte, 0x400))
					}
					fmt.Fprintf(c, "0\r\nX-Sum: 42\r\nX-Unannounced: 43\r\n\r\n")
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Errorf("no answer: %v", err)
						return
					}
					defer res.Body.Close()
					if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode == 499 {
						t.Errorf("got status %d, %v, want a complete answer", res.StatusCode, err)
					}
				})
			})
		}
	}
}
