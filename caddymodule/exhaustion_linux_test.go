// SPDX-License-Identifier: Apache-2.0

// What a Caddy does that runs out of descriptors or memory.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health/pressure"
)

// keeper is a client that keeps its one connection open.
func keeper(tb testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true, MaxConnsPerHost: 1}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// answered is what a crowd of clients got.
type answered struct {
	ok, refused, wrong atomic.Int64

	mu      sync.Mutex
	clients []*http.Client
}

// leave closes the clients' connections.
func (a *answered) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients {
		c.CloseIdleConnections()
	}
}

func (a *answered) all() int64 { return a.ok.Load() + a.refused.Load() + a.wrong.Load() }

// refuses tells that somebody is refused, for all have the same address: because
// of the host, or because of that address's share.
func (a answer) refuses() bool {
	return (a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests) && a.header.Get("Retry-After") != ""
}

// ask sends a request. Only a right answer, or a refusal with Retry-After, may come.
func (a *answered) ask(tb testing.TB, client *http.Client, url string) {
	a.mu.Lock()
	a.clients = append(a.clients, client)
	a.mu.Unlock()
	res, err := client.Get(url)
	if err != nil {
		a.wrong.Add(1)
		tb.Errorf("instead of an answer: %v", err)
		return
	}
	switch got := readAnswer(tb, res); {
	case got.status == http.StatusOK:
		a.ok.Add(1)
	case got.refuses():
		a.refused.Add(1)
	default:
		a.wrong.Add(1)
		tb.Errorf("got %d with Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
}

const fewFiles = 128

func startFewFiles(tb testing.TB, upstream string, only pressure.Resource) *child {
	return startChild(tb, childSpec{Files: fewFiles, Only: only, Lo: .75, Hi: .92}, "",
		fmt.Sprintf("reset_guard %s {\ntransport http {\nkeepalive 1s\n}\n}", upstream))
}

// More requests at a time than there are descriptors for: each one gets an answer.
func TestOutOfFiles(t *testing.T) {
	leaveNothing(t)
	o := newBlocker(t)
	c := startFewFiles(t, o.addr, pressure.Files)
	expect(t, "status", c.get(t, "/").status, http.StatusOK)
	before := c.files(t)

	const crowd, first = 200, 20
	var got answered
	for i := range crowd {
		if i == first {
			eventually(t, "the first ones", func() bool { return o.held.Load() == first })
		}
		go got.ask(t, keeper(t), c.url("/hold"))
	}
	eventually(t, "a pressure of files, and refusals", func() bool {
		return got.refused.Load() > 0 && c.pressures(t, pressure.Files, pressure.Critical) > 0
	})
	res, err := keeper(t).Get(c.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "refusal", readAnswer(t, res).refuses(), true)
	expect(t, "closing after the answer", res.Close, true)

	o.open()
	eventually(t, "answers to all", func() bool { return got.all() == crowd })
	t.Logf("%d were served, %d refused", got.ok.Load(), got.refused.Load())
	if got.ok.Load() < first {
		t.Errorf("only %d were served, though %d were when descriptors ran out", got.ok.Load(), first)
	}
	got.leave()
	eventually(t, "service as before", func() bool { return c.get(t, "/").status == http.StatusOK })
	eventually(t, "as few descriptors as before", func() bool { return c.files(t) <= before+1 })
	eventually(t, "a lower level", func() bool { return c.pressures(t, pressure.Files, pressure.High) > 0 })
}

// If requests are not refused in time, there are no descriptors to connect to an
// origin, and none to accept more: that is answered too, and no origin's fault.
func TestNoFileForTheOrigin(t *testing.T) {
	leaveNothing(t)
	o := newBlocker(t)
	c := startFewFiles(t, o.addr, pressure.FileErrors)
	const crowd = 200
	var got answered
	for range crowd {
		go got.ask(t, keeper(t), c.url("/hold"))
	}
	eventually(t, "a pressure of file errors", func() bool { return c.pressures(t, pressure.FileErrors, pressure.Severe) > 0 })
	o.open()
	eventually(t, "answers to all", func() bool { return got.all() == crowd })
	t.Logf("%d were served, %d refused", got.ok.Load(), got.refused.Load())
	got.leave()
	found := false
	for _, l := range c.faults(t) {
		found = found || l.text("cause") == "local_files" && l.text("side") == "proxy"
	}
	expect(t, "a fault for want of descriptors", found, true)
	expect(t, "status afterwards", c.get(t, "/").status, http.StatusOK)
}

// Clients that keep their connections for later take descriptors from nobody.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	leaveNothing(t)
	c := startFewFiles(t, origin(t, func(http.ResponseWriter, *http.Request) {}), pressure.Files)
	const crowd = 300
	var got answered
	for range crowd {
		got.ask(t, keeper(t), c.url("/"))
	}
	t.Logf("%d were served, %d refused", got.ok.Load(), got.refused.Load())
	eventually(t, "the line about idle connections", func() bool {
		for _, l := range c.lines(t) {
			if l.text("msg") == "idle connections of clients were closed for want of file descriptors" {
				return l["closed"].(float64) > 0
			}
		}
		return false
	})
	eventually(t, "room", func() bool { return c.files(t) < fewFiles*9/10 })
	eventually(t, "service as before", func() bool { return c.get(t, "/").status == http.StatusOK })
}

const memoryUpload = 64 << 10

// put uploads to path, and tells the status and whether the body was complete.
func put(tb testing.TB, url string) (status int, complete bool) {
	tb.Helper()
	req := newRequest(tb, http.MethodPut, url, bytes.NewReader(make([]byte, memoryUpload)))
	res, err := newClient(tb).Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err == nil
}

// With little memory left nothing is held and nothing kept, so that a failing
// origin shows, while requests go on; with enough, it does not show again.
func TestOutOfMemory(t *testing.T) {
	leaveNothing(t)
	// Both origins break off: the first answer to each upload, after it has begun.
	var begun atomic.Int64
	breaking := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "1000")
		if r.URL.Path == "/break" && begun.Add(1)%2 == 1 {
			_, _ = w.Write(make([]byte, 10))
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(make([]byte, 1000))
	}
	c := startChild(t, childSpec{Only: pressure.Memory, Lo: .5, Hi: 1}, "",
		fmt.Sprintf("reset_guard %s {\neject off\n}", join(origin(t, breaking), origin(t, breaking))))
	mended := func() bool {
		begun.Store(0)
		status, complete := put(t, c.url("/break"))
		return status == http.StatusOK && complete
	}
	if !mended() {
		t.Fatal("with enough memory: the fault shows")
	}
	c.tell(t, "fill")
	eventually(t, "a pressure of memory", func() bool { return c.pressures(t, pressure.Memory, pressure.Severe) > 0 })
	if mended() {
		t.Error("with little memory: the answer was still held, and the body kept")
	}
	for range 20 {
		status, complete := put(t, c.url("/"))
		expect(t, "status with little memory", status, http.StatusOK)
		expect(t, "a whole answer", complete, true)
	}
	c.tell(t, "free")
	eventually(t, "a mended fault", mended)
	eventually(t, "the line about it", func() bool { return c.pressures(t, pressure.Memory, pressure.High) > 0 })
}
