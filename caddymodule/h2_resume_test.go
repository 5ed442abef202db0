// SPDX-License-Identifier: Apache-2.0

// HTTP/2 and HTTP/3 origins that break off in the middle of a body, in their own
// ways: what they had begun is finished from the others.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// h2Site is a site on all versions of HTTP before origins that speak proto.
func h2Site(t *testing.T, proto faultinject.Protocol, options string, configs ...faultinject.Config) (*secureServer, []*faultinject.Origin) {
	t.Helper()
	m := &matrix{T: t}
	var upstreams []string
	for i, cfg := range configs {
		cfg.Protocol, cfg.ETag, cfg.Name = proto, `"v1"`, fmt.Sprint(i)
		o := startOrigin(t, cfg)
		m.origins = append(m.origins, o)
		upstreams = append(upstreams, map[faultinject.Protocol]string{faultinject.H2C: "h2c://", faultinject.H2: "https://"}[proto]+o.Addr())
	}
	transport := ""
	if proto == faultinject.H2 {
		transport = "transport http {\ntls_trust_pool file " + filepath.ToSlash(m.authorities()) + "\n}"
	}
	return serveSecure(t, fmt.Sprintf("reset_guard %s {\nlb_policy first\n%s\n%s\n}", strings.Join(upstreams, " "), options, transport)), m.origins
}

// TestStreamsAreFinished: two origins end every answer after 300 KiB in one of the
// ways that HTTP/2 has, and the body comes whole all the same. They never let the
// last byte go; only for that a third one is asked.
func TestStreamsAreFinished(t *testing.T) {
	const size = 2 << 20
	want := faultinject.Bytes(size)
	for _, proto := range []faultinject.Protocol{faultinject.H2, faultinject.H2C} {
		for _, tc := range []struct {
			fault faultinject.Fault
			cause string // none: nothing has to be mended
		}{
			{faultinject.StreamResetInBody, "reset"},
			{faultinject.StreamCancelInBody, "reset"},
			{faultinject.StreamCalmInBody, "overloaded"},
			{faultinject.GoAwayInBody, ""},
			{faultinject.GoAwayCalmInBody, "overloaded"},
			{faultinject.ResetInBody, "reset"},
			{faultinject.CloseInBody, "closed"},
		} {
			t.Run(fmt.Sprintf("%s %s", proto, tc.fault), func(t *testing.T) {
				bad := faultinject.Config{Fault: tc.fault, After: 300 << 10}
				site, _ := h2Site(t, proto, "", bad, bad, faultinject.Config{})
				for _, c := range secureClients {
					_, got, err := get(t, c.start(t, site), site.url(fmt.Sprint("/bytes/", size)))
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%s: got %d of %d bytes and %v; %v", c.name, len(got), size, err, site.faults(t))
					}
				}
				if tc.cause != "" {
					eventually(t, "lines in the log", func() bool { return len(site.faults(t)) > 0 })
				}
				for _, l := range site.faults(t) {
					if l.text("cause") != tc.cause || l.text("phase") != "body" || l.text("action") != "resumed" {
						t.Errorf("got %s in %s, %s; want %s: %v", l.text("cause"), l.text("phase"), l.text("action"), tc.cause, l)
					}
				}
			})
		}
	}
}

// TestResumeIsRefused: the origins asked for the rest refuse the stream, or end
// the connection before it. The one after them has it.
func TestResumeIsRefused(t *testing.T) {
	const size = 1 << 20
	for _, fault := range []faultinject.Fault{faultinject.RefusedStream, faultinject.GoAway, faultinject.GoAwayCalm, faultinject.StreamCalm, faultinject.StreamCancel, faultinject.StreamProtocolError, faultinject.H2ConnLost} {
		t.Run(string(fault), func(t *testing.T) {
			site, origins := h2Site(t, faultinject.H2, "",
				faultinject.Config{Fault: faultinject.StreamResetInBody}, faultinject.Config{Fault: fault}, faultinject.Config{})
			_, got, err := get(t, secureClients[1].start(t, site), site.url(fmt.Sprint("/bytes/", size)))
			if err != nil || !bytes.Equal(got, faultinject.Bytes(size)) {
				t.Fatalf("got %d of %d bytes and %v; %v", len(got), size, err, site.faults(t))
			}
			if origins[2].Requests() != 1 {
				t.Errorf("the origin that has the rest got %d requests, want 1", origins[2].Requests())
			}
		})
	}
}

// TestLostConnectionIsOneFault: many streams are lost with their connection. All
// are finished, and the origin is not held to have failed so many times.
func TestLostConnectionIsOneFault(t *testing.T) {
	const size, streams = 256 << 10, 100
	want := faultinject.Bytes(size)
	for _, proto := range []faultinject.Protocol{faultinject.H2, faultinject.H2C} {
		t.Run(string(proto), func(t *testing.T) {
			// All of them wait at the origin until the last has come.
			var wg sync.WaitGroup
			var arrived atomic.Int32
			all := make(chan struct{})
			site, origins := h2Site(t, proto, "failover {\nhold off\n}", faultinject.Config{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("ETag", `"v1"`)
					w.Header().Set("Content-Type", "application/octet-stream")
					if r.URL.Path == "/first" {
						return
					}
					if arrived.Add(1) == streams {
						close(all)
					}
					select {
					case <-all:
					case <-r.Context().Done():
					}
					_, _ = w.Write(want)
				}),
			}, faultinject.Config{}, faultinject.Config{})
			client := secureClients[1].start(t, site)
			if _, _, err := get(t, client, site.url("/first")); err != nil { // so that there is a connection
				t.Fatal(err)
			}
			if err := origins[0].SetFault(faultinject.ResetInBody, 1); err != nil {
				t.Fatal(err)
			}
			for range streams {
				wg.Go(func() {
					if _, got, err := get(t, client, site.url(fmt.Sprint("/bytes/", size))); err != nil || !bytes.Equal(got, want) {
						t.Errorf("got %d of %d bytes and %v", len(got), size, err)
					}
				})
			}
			wg.Wait()
			if n := origins[0].Accepted(); n > 3 {
				t.Fatalf("the origin had %d connections: the test shows nothing", n)
			}
			for _, l := range site.lines(t) {
				if l.text("msg") == "upstream ejected" {
					t.Errorf("the origin was ejected: %v", l)
				}
			}
		})
	}
}
