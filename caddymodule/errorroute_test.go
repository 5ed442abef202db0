// SPDX-License-Identifier: Apache-2.0

// Uploads that end in an error route: another proxy there gets the whole body
// or none, never what the first one has left of it.

package caddymodule_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

var uploadFaults = []faultinject.Fault{
	faultinject.Refuse, faultinject.ResetAfterHeader, faultinject.ResetInUpload, faultinject.CloseInUpload, faultinject.CloseAfterRequest,
}

// Caddy's own proxy does not hold to that: a body that was read to its end is an
// empty one to whoever reads it next.
func TestErrorRouteGetsWholeBodyOrNone(t *testing.T) {
	for name, options := range map[string]string{
		"kept":            once,
		"keeping nothing": "failover {\n attempts 1\n replay off\n }",
		"kept in part":    "failover {\n attempts 1\n replay 1KiB 100KiB\n }",
		"failover off":    "failover off",
		"error page off":  once + "\n error_page off",
		"buffered":        once + "\n request_buffers 1MiB",
		"partly buffered": once + "\n request_buffers 10KiB",
	} {
		for second, options2 := range map[string]string{stock: "", guarded: once} {
			t.Run(name+" then "+second, func(t *testing.T) {
				leaveNothing(t)
				bad := startOrigin(t, faultinject.Config{After: 50_000})
				body := faultinject.Bytes(200_000) // under 256 KiB: the rest is read by net/http after the answer
				fallback := origin(t, func(_ http.ResponseWriter, r *http.Request) {
					if got, err := io.ReadAll(r.Body); err == nil && !bytes.Equal(got, body) {
						t.Errorf("%s: the second proxy passed on %d bytes as a whole body of %d", r.URL, len(got), len(body))
					}
				})
				s := serve(t, fmt.Sprintf("handle_errors {\n %s %s {\n %s\n }\n }\n%s %s {\n %s\n }",
					second, fallback, options2, guarded, bad.Addr(), options))
				answered := 0
				for _, fault := range uploadFaults {
					if err := bad.SetFault(fault, 1); err != nil {
						t.Fatal(err)
					}
					answered += uploadBothWays(t, s, "/"+string(fault), body)
				}
				if answered == 0 {
					t.Error("no upload was answered")
				}
			})
		}
	}
}

// uploadBothWays sends the body with a length and without. The upload may be cut
// short by a reset: net/http's server breaks off a read of the body that is under
// way when an error route ends, and does not read on. The origin then tells what it
// was sent.
func uploadBothWays(t *testing.T, s *server, path string, body []byte) (answered int) {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		for form, body := range map[string]io.Reader{"declared": bytes.NewReader(body), "chunked": io.MultiReader(bytes.NewReader(body))} {
			res, err := client.Do(newRequest(t, method, s.url(path), body))
			if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			answered++
			switch got := readAnswer(t, res); got.status {
			case http.StatusOK, http.StatusBadGateway:
			default:
				t.Errorf("%s %s, %s: got status %d, want 200 or 502", method, path, form, got.status)
			}
		}
	}
	return answered
}

// A client that is silent in the middle of its upload still waits for an
// answer, and nobody may take it for gone.
func TestErrorRouteAnswersSilentUploader(t *testing.T) {
	page := named("the page")
	for name, route := range map[string]func(t *testing.T) string{
		"written": func(*testing.T) string { return "respond \"the page\"" },
		"fetched": func(t *testing.T) string {
			return stock + " " + origin(t, page) + " {\n method GET\n rewrite /page\n }"
		},
		"fetched with a guard": func(t *testing.T) string {
			return guarded + " " + origin(t, page) + " {\n method GET\n rewrite /page\n }"
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			bad := startOrigin(t, faultinject.Config{Fault: faultinject.ResetInUpload, After: 1000})
			// Without an access log, whose count of bytes Caddy reads while the
			// request's body may just be ending.
			s := serve(t, fmt.Sprintf("handle_errors {\n %s\n }\n%s %s {\n %s\n }", route(t), guarded, bad.Addr(), once))
			for _, length := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTrailer: X-Sum"} {
				c, r := dialSite(t, s)
				fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n\r\n7d0\r\n%s", length, make([]byte, 2000))
				got := readFinal(t, r)
				expect(t, "body", got.body, "the page")
				_ = c.Close()
			}
		})
	}
}
