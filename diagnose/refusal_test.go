// SPDX-License-Identifier: Apache-2.0

// What a refused client reads.

package diagnose

import (
	"encoding/json"
	"html"
	"strings"
	"testing"
	"time"
)

func TestRenderRefusal(t *testing.T) {
	for name, tc := range map[string]struct {
		r    Refusal
		want []string
	}{
		"client":  {Refusal{429, "https://example.test/quota", "client", 7 * time.Second, true, "id-1"}, []string{"Too many requests", "try again in 7 seconds"}},
		"network": {Refusal{429, "https://example.test/quota", "network", time.Second, false, "<id>"}, []string{"from this network", "try again in a second"}},
		"site":    {Refusal{503, "https://example.test/busy", "network", 2 * time.Second, false, "<id>"}, []string{"very busy"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range []Format{Plain, Problem, HTML} {
				contentType, body := RenderRefusal(f, tc.r)
				for _, want := range tc.want {
					if !strings.Contains(string(body), want) {
						t.Errorf("%s: want %q in it:\n%s", contentType, want, body)
					}
				}
				if strings.Contains(string(body), "%!") {
					t.Errorf("a broken page:\n%s", body)
				}
				if f == HTML {
					if !strings.Contains(string(body), "<code>"+html.EscapeString(tc.r.RequestID)+"</code></footer>") {
						t.Errorf("want the id in it:\n%s", body)
					}
					continue
				}
				var p struct {
					Type, Title, Detail string
					Status              int
					Violated            []string `json:"violated-policies"`
					RequestID           string   `json:"request_id"`
				}
				if err := json.Unmarshal(body, &p); err != nil || contentType != "application/problem+json" {
					t.Fatalf("%s, %v:\n%s", contentType, err, body)
				}
				if p.RequestID != tc.r.RequestID {
					t.Errorf("got the id %q, want %q", p.RequestID, tc.r.RequestID)
				}
				if p.Type != tc.r.Type || p.Status != tc.r.Status || (p.Status == 429) != (len(p.Violated) == 1) {
					t.Errorf("got %+v", p)
				}
			}
		})
	}
}
