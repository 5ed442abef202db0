// SPDX-License-Identifier: Apache-2.0

// What a site does with requests and responses around the proxy: response
// handlers, rewrites, buffers, other directives before and after.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// withStatus answers with the status in the path.
func withStatus(w http.ResponseWriter, r *http.Request) {
	var status int
	_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
	w.Header().Set("X-Secret", "secret")
	w.Header().Set("X-Origin", "origin")
	w.Header().Set("X-Method", r.Method)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "from the origin")
}

// responseCases are options and what comes of a request to a path.
var responseCases = []struct {
	name, options, path string
	status              int
	body                string
	header              [2]string // name and value
}{
	{"handle_response", "@e status 404\nhandle_response @e {\nrespond \"no {rp.status_code}\" 410\n}", "/404", 410, "no 404", [2]string{}},
	{"handle_response of a held body", "handle_response {\nrespond \"instead\" 200\n}", "/200", 200, "instead", [2]string{}},
	{"handle_response of a gateway error", "@e status 503\nhandle_response @e {\nrespond \"sorry\" 503\n}", "/503", 503, "sorry", [2]string{}},
	{"handle_response not matched", "@e status 404\nhandle_response @e {\nrespond \"no\"\n}", "/403", 403, "from the origin", [2]string{"X-Secret", "secret"}},
	{"copy_response", "handle_response {\ncopy_response\n}", "/201", 201, "from the origin", [2]string{}},
	{"copy_response with status", "handle_response {\ncopy_response 202\n}", "/201", 202, "from the origin", [2]string{}},
	{"copy_response_headers", "handle_response {\ncopy_response_headers {\ninclude X-Origin\n}\nrespond \"ok\"\n}", "/200", 200, "ok", [2]string{"X-Origin", "origin"}},
	{"error in handle_response", "handle_response {\nerror \"teapot\" 418\n}", "/200", 418, "", [2]string{}},
	{"replace_status", "replace_status 299", "/200", 299, "from the origin", [2]string{"X-Origin", "origin"}},
	{"replace_status matched", "@e status 2xx\nreplace_status @e 210", "/204", 210, "", [2]string{}},
	{"header_down", "header_down -X-Secret\nheader_down X-Origin origin replaced", "/200", 200, "from the origin", [2]string{"X-Origin", "replaced"}},
	{"rewrite", "rewrite /206", "/200", 206, "from the origin", [2]string{}},
	{"method", "method DELETE", "/200", 200, "from the origin", [2]string{"X-Method", "DELETE"}},
	{"response_buffers", "response_buffers 1MiB", "/200", 200, "from the origin", [2]string{"X-Origin", "origin"}},
	{"response_buffers too small", "response_buffers 4", "/200", 200, "from the origin", [2]string{"X-Origin", "origin"}},
	{"gateway error of the origin", "", "/502", 502, "from the origin", [2]string{"X-Origin", "origin"}},
	{"no content", "", "/204", 204, "", [2]string{"X-Origin", "origin"}},
	{"not modified", "", "/304", 304, "", [2]string{"X-Origin", "origin"}},
}

func TestStockResponses(t *testing.T) {
	for _, c := range responseCases {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, directive string) {
				s := serve(t, fmt.Sprintf("%s %s {\n %s\n }", directive, origin(t, withStatus), c.options))
				got := s.get(t, c.path)
				expect(t, "status", got.status, c.status)
				expect(t, "body", got.body, c.body)
				if c.header[0] != "" {
					expect(t, c.header[0], got.header.Get(c.header[0]), c.header[1])
				}
				if strings.HasPrefix(c.name, "header_down") {
					expect(t, "X-Secret", got.header.Get("X-Secret"), "")
				}
			})
		})
	}
}

// A request rewritten to GET leaves the body for what comes after.
func TestStockRewriteLeavesBody(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		addr := origin(t, describe)
		s := serve(t, fmt.Sprintf(`%s %s {
			method GET
			rewrite /check
			@good status 2xx
			handle_response @good {
				reverse_proxy %[2]s
			}
		}`, directive, addr))
		got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), strings.NewReader("body")))
		expect(t, "body", got.body, "HTTP/1.1 - POST 4 <nil>")
	})
}

func TestStockRequestBuffers(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		for _, size := range []string{"unlimited", "1MiB", "10KiB"} {
			s := serve(t, fmt.Sprintf("%s %s {\n request_buffers %s\n }", directive, origin(t, describe), size))
			chunked := io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)))
			got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/"), chunked))
			expect(t, size, got.body, "HTTP/1.1 - POST 100000 <nil>")
		}
	})
}

// The body that the proxy has buffered is sent again whole by the guard.
func TestGuardRepeatsBufferedBody(t *testing.T) {
	leaveNothing(t)
	body := faultinject.Bytes(300_000)
	for _, fault := range []faultinject.Fault{faultinject.Refuse, faultinject.ResetInUpload, faultinject.CloseAfterRequest, faultinject.Status503} {
		bad := startOrigin(t, faultinject.Config{Fault: fault})
		s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n request_buffers 1MiB\n }", guarded, bad.Addr(), origin(t, describe)))
		got := do(t, newClient(t), newRequest(t, http.MethodPut, s.url("/"), bytes.NewReader(body)))
		expect(t, string(fault), got.body, "HTTP/1.1 - PUT 300000 <nil>")
	}
}

// --- other directives around it

func TestStockForwardAuth(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		auth := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Forwarded-Uri") != "/open" {
				http.Error(w, "not you", http.StatusUnauthorized)
				return
			}
			w.Header().Set("Remote-User", "alice")
		})
		app := origin(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s for %s", r.Method, body, r.Header.Get("Remote-User"))
		})
		s := serve(t, fmt.Sprintf("forward_auth %s {\n uri /check\n copy_headers Remote-User\n }\n%s %s", auth, directive, app))
		got := do(t, newClient(t), newRequest(t, http.MethodPost, s.url("/open"), strings.NewReader("body")))
		expect(t, "allowed", got.body, "POST body for alice")
		refused := s.get(t, "/closed")
		expect(t, "refused", refused.status, http.StatusUnauthorized)
		expect(t, "body", refused.body, "not you\n")
	})
}

// The faults behind forward_auth are the guard's, with the body still whole.
func TestGuardFailsOverBehindForwardAuth(t *testing.T) {
	leaveNothing(t)
	bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
	s := serve(t, fmt.Sprintf("forward_auth %s {\n uri /check\n }\n%s %s %s {\n lb_policy first\n }",
		origin(t, named("yes")), guarded, bad.Addr(), origin(t, describe)))
	got := do(t, newClient(t), newRequest(t, http.MethodPut, s.url("/"), strings.NewReader("body")))
	expect(t, "body", got.body, "HTTP/1.1 - PUT 4 <nil>")
}

// A proxy within the proxy's response handler works for itself.
func TestStockProxyInResponseHandler(t *testing.T) {
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, fmt.Sprintf(`%s %s {
			@gone status 404
			handle_response @gone {
				%[1]s %[3]s {
					header_down X-From second
				}
			}
			header_down X-From first
		}`, directive, origin(t, withStatus), origin(t, describe)))
		expect(t, "first", s.get(t, "/200").header.Get("X-From"), "first")
		second := s.get(t, "/404")
		expect(t, "second", second.body, "HTTP/1.1 - GET 0 <nil>")
		expect(t, "second", second.header.Get("X-From"), "second")
	})
}

// Each of the two has its own attempts and origins, whether the inner one is
// the directive or made by hand.
func TestGuardInResponseHandlerFailsOver(t *testing.T) {
	for name, inner := range map[string]string{
		"directive": "reset_guard %s %s {\n lb_policy first\n }",
		"by hand":   "reverse_proxy %s %s {\n lb_policy reset_guard first\n lb_retries 3\n lb_retry_match {\n reset_guard\n }\n transport reset_guard\n }",
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			outer := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
			within := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
			s := serve(t, fmt.Sprintf("%s %s %s {\n lb_policy first\n @gone status 404\n handle_response @gone {\n %s\n }\n }",
				guarded, outer.Addr(), origin(t, withStatus), fmt.Sprintf(inner, within.Addr(), origin(t, named("at last")))))
			got := s.get(t, "/404")
			expect(t, "body", got.body, "at last")
			expect(t, "attempts at the outer one", outer.Requests(), 1)
			expect(t, "attempts at the inner one", within.Requests(), 1)
			lines := s.faults(t)
			if len(lines) != 2 {
				t.Fatalf("faults: got %d, want 2", len(lines))
			}
			expect(t, "upstream of the first line", lines[0].text("upstream"), outer.Addr())
			expect(t, "upstream of the second line", lines[1].text("upstream"), within.Addr())
		})
	}
}

// Compression at the edge sees one representation.
func TestStockEncode(t *testing.T) {
	body := strings.Repeat("compressible ", 10_000)
	onBoth(t, func(t *testing.T, directive string) {
		s := serve(t, "encode gzip\n"+directive+" "+origin(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, body)
		}))
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		got := do(t, client, newRequest(t, http.MethodGet, s.url("/"), nil))
		expect(t, "body", len(got.body), len(body))
		if got.header.Get("Content-Length") != "" {
			t.Errorf("Content-Length: got %s, want none", got.header.Get("Content-Length"))
		}
	})
}
