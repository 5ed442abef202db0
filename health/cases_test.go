// SPDX-License-Identifier: Apache-2.0

// What a case of Classify is: a row of HEALTH.md's table, a way to produce it
// for real, and what must come out.

package health_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

// faultCase is one way to produce a row of the table in HEALTH.md section 3.3.
type faultCase struct {
	row     string // the row's cause class
	name    string
	produce func(t *testing.T) health.Fault
	want    want
}

// want is what Classify must say.
type want struct {
	cause  health.Cause
	phases []health.Phase // one of these; nil where it depends on who was faster
	side   health.Side
	weight float64
	trip   bool
	safety health.Safety
}

func at(phases ...health.Phase) []health.Phase { return phases }

func (w want) check(t *testing.T, f health.Fault) {
	t.Helper()
	if f.Cause != w.cause || f.Side != w.side || f.Weight != w.weight || f.Trip != w.trip || f.Safety != w.safety {
		t.Errorf("got cause %s side %s weight %v trip %v safety %v, want %s %s %v %v %v",
			f.Cause, f.Side, f.Weight, f.Trip, f.Safety, w.cause, w.side, w.weight, w.trip, w.safety)
	}
	if w.phases != nil && !slices.Contains(w.phases, f.Phase) {
		t.Errorf("got phase %s, want one of %v", f.Phase, w.phases)
	}
	if t.Failed() {
		t.Logf("sent %d, received %d, error: %v", f.Sent, f.Received, f.Err)
	}
}

func runCases(t *testing.T, cases []faultCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.row+"/"+c.name, func(t *testing.T) { c.want.check(t, c.produce(t)) })
	}
}

// send describes a request.
type send struct {
	path    string // default "/"
	upload  int    // bytes of a POST's body; 0 makes it a GET
	chunked bool
	warm    bool // an answered request goes first, so that the connection is reused
	tune    func(c *client)
}

func (s send) request(t *testing.T, url string) *http.Request {
	t.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if s.upload > 0 {
		method, body = http.MethodPost, bytes.NewReader(make([]byte, s.upload))
	}
	if s.chunked {
		body = io.MultiReader(body) // its length is not known
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url+s.path, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// through produces the fault of an origin in one attempt.
func through(cfg faultinject.Config, s send) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault { return tryOrigin(t, cfg, s).fault(t) }
}

func tryOrigin(t *testing.T, cfg faultinject.Config, s send) *attempt {
	t.Helper()
	o := startOrigin(t, cfg)
	c := newClient(t, o.RootCAs())
	return c.try(t, o.URL(), s)
}

// try makes the attempt that s describes.
func (c *client) try(t *testing.T, url string, s send) *attempt {
	t.Helper()
	if s.tune != nil {
		s.tune(c)
	}
	if s.warm {
		if a := c.do(t, send{}.request(t, url)); a.err != nil {
			t.Fatalf("the request that goes first: %v", a.err)
		}
	}
	return c.do(t, s.request(t, url))
}

func startOrigin(t *testing.T, cfg faultinject.Config) *faultinject.Origin {
	t.Helper()
	o, err := faultinject.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// startPeer lets serve have each connection of a listener, for what no origin
// of faultinject does. It returns the address.
func startPeer(t *testing.T, serve func(c *net.TCPConn)) string {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	closed := false
	wg.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				_ = c.Close()
			}
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		closed = true
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// reset closes c with a TCP reset.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// drain reads on, so that closing c afterwards sends no reset.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
