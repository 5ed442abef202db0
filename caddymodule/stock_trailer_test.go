// SPDX-License-Identifier: Apache-2.0

// The trailer of a response that is held arrives in the background.

package caddymodule

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/failover"
)

// trailingOrigin answers with one byte, and with a trailer as soon as it is let
// go. It writes the trailer as net/http does: into the response, within Read.
type trailingOrigin struct {
	res           *http.Response
	reads         int
	letGo, landed chan struct{}
}

func (o *trailingOrigin) RoundTrip(*http.Request) (*http.Response, error) { return o.res, nil }

func (o *trailingOrigin) Read(p []byte) (int, error) {
	if o.reads++; o.reads == 1 {
		return copy(p, "x"), nil
	}
	<-o.letGo
	o.res.Trailer = http.Header{"X-Sum": {"42"}, "X-Unannounced": {"43"}}
	close(o.landed)
	return 0, io.EOF
}

func (o *trailingOrigin) Close() error { return nil }

// Caddy's proxy goes through the trailer as soon as it has the response. If the
// end of the body came just then, the map would be written and read at the same
// time, which ends the process.
func TestTrailerAppearsWithTheEnd(t *testing.T) {
	for name, announced := range map[string]http.Header{"announced": {"X-Sum": nil}, "unannounced": nil} {
		t.Run(name, func(t *testing.T) {
			o := &trailingOrigin{letGo: make(chan struct{}), landed: make(chan struct{})}
			o.res = &http.Response{StatusCode: 200, ProtoMajor: 1, ContentLength: -1, Header: http.Header{}, Trailer: announced, Body: o}
			tr := &Transport{inner: o, policy: failover.DefaultPolicy(), site: &site{app: &App{registry: newRegistry()}}}
			tr.policy.HoldFor = time.Millisecond
			ctx := context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://origin.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			close(o.letGo)
			<-o.landed
			if len(res.Trailer) != len(announced) || res.Trailer.Get("X-Sum") != "" {
				t.Errorf("before the end was read: got trailer %v, want the keys of %v", res.Trailer, announced)
			}
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "x" {
				t.Errorf("body: got %q, %v, want %q", body, err, "x")
			}
			if res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Unannounced") != "43" {
				t.Errorf("after the end: got trailer %v", res.Trailer)
			}
			if err := res.Body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
