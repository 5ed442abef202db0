// SPDX-License-Identifier: Apache-2.0

// What brings the lines of different logs together: a fault's line names the
// client's own request, and the access log the fault.

package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

func TestFaultLineNamesTheClientsRequest(t *testing.T) {
	for name, c := range map[string]struct{ before, options string }{
		"as it came":     {},
		"rewritten":      {before: "rewrite * /elsewhere?b=2"},
		"stripped":       {before: "uri strip_prefix /shop"},
		"within a route": {before: "handle_path /shop/* {\n PROXY\n }"},
		"for the origin": {options: "header_up Host origin.test\n rewrite /elsewhere\n method PUT"},
	} {
		for _, ending := range []string{outcomeError, outcomeAnswered} {
			t.Run(name+" "+ending, func(t *testing.T) {
				leaveNothing(t)
				bad := startOrigin(t, faultinject.Config{Fault: faultinject.CloseAfterRequest})
				upstreams := bad.Addr()
				if ending == outcomeAnswered {
					upstreams = join(upstreams, origin(t, named("ok")))
				}
				proxy := fmt.Sprintf("%s %s {\n lb_policy first\n %s\n failover {\n attempts 2\n }\n }", guarded, upstreams, c.options)
				site := strings.Replace(c.before, "PROXY", proxy, 1)
				if site == c.before {
					site += "\n" + proxy
				}
				s := serveSites(t, func(addr string) string {
					return fmt.Sprintf("http://site.test:%s {\n log\n %s\n }", portOf(addr), site)
				})
				host := "site.test:" + portOf(s.addr)
				s.get(t, "/shop/cart?a=1", "Host", host)
				s.accessStatus(t, 1)
				access := s.accessLines(t)[0]
				lines := s.faults(t)
				if len(lines) == 0 {
					t.Fatal("no line tells of the fault")
				}
				for _, l := range lines {
					expect(t, "method", l.text("method"), http.MethodGet)
					expect(t, "host", l.text("host"), host)
					expect(t, "uri", l.text("uri"), "/shop/cart?a=1")
					expect(t, "outcome", l.text("outcome"), ending)
					expect(t, "request_id", l.text("request_id"), fmt.Sprint(access["uuid"]))
				}
				noted, _ := access["reset_guard"].(map[string]any)
				last := lines[len(lines)-1]
				for _, key := range []string{"cause", "action"} {
					expect(t, key+" in the access log", fmt.Sprint(noted[key]), last.text(key))
				}
				expect(t, "attempts in the access log", fmt.Sprint(noted["attempts"]), "2")
			})
		}
	}
}

const (
	outcomeError    = "error"
	outcomeAnswered = "answered"
)

// A request without a fault leaves no trace of the guard in the access log.
func TestAccessLogWithoutFault(t *testing.T) {
	leaveNothing(t)
	s := serve(t, fmt.Sprintf("log\n%s %s", guarded, origin(t, named("ok"))))
	s.get(t, "/")
	s.accessStatus(t, 1)
	line := s.accessLines(t)[0]
	if line["reset_guard"] != nil || line["uuid"] != nil {
		t.Errorf("got %v, want neither reset_guard nor uuid", line)
	}
}

// An id that somebody else has given the request is used, and not another.
func TestFaultLineUsesTheRequestsID(t *testing.T) {
	leaveNothing(t)
	s := serve(t, fmt.Sprintf("log\nlog_append id {http.request.uuid}\nheader X-Id {http.request.uuid}\n%s %s {\n %s\n }", guarded, deadAddr(t), once))
	got := s.get(t, "/", "Accept", "text/plain")
	s.accessStatus(t, 1)
	lines, access := s.faults(t), s.accessLines(t)[0]
	if len(lines) != 1 {
		t.Fatalf("got %d lines, want 1", len(lines))
	}
	id := lines[0].text("request_id")
	expect(t, "X-Id", got.header.Get("X-Id"), id)
	expect(t, "X-Request-Id", got.header.Get("X-Request-Id"), id)
	expect(t, "id in the access log", access.text("id"), id)
	expect(t, "uuid in the access log", access.text("uuid"), id)
	if !strings.Contains(got.body, id) {
		t.Errorf("the answer %q does not name %s", got.body, id)
	}
}
