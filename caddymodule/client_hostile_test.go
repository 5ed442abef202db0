// SPDX-License-Identifier: Apache-2.0

// Hostile clients: hundreds of uploads broken off in every way there is eject
// nobody and disturb nobody.

package caddymodule_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// breakOffs are the ways to break off an upload.
var breakOffs = map[string]func(h *hostile, id, method string) error{
	"h1 FIN":     func(h *hostile, id, method string) error { return h.breakOffH1(id, method, closeConn) },
	"h1 RST":     func(h *hostile, id, method string) error { return h.breakOffH1(id, method, resetConn) },
	"h2 FIN":     func(h *hostile, id, method string) error { return h.breakOffH2(id, method, closeConn) },
	"h2 RST":     func(h *hostile, id, method string) error { return h.breakOffH2(id, method, resetConn) },
	"h2 streams": func(h *hostile, id, method string) error { return h.breakOffH2(id, method, resetStreams) },
}

func TestHostileUploadsEjectNobody(t *testing.T) {
	for name, breakOff := range breakOffs {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			h := new(hostile)
			for range 3 {
				h.origins = append(h.origins, startOrigin(t, faultinject.Config{}))
			}
			h.server = serveConfig(t, "", "protocols h1 h2c", guarded+" "+join(addrsOf(h.origins)...))

			const workers, each = 4, 60
			errs := make(chan error, workers)
			for worker := range workers {
				go func() { errs <- h.run(breakOff, worker, each) }()
			}
			r := runLoad(t.Context(), h.url(""), 2*time.Second)
			for range workers {
				if err := receive(t, "the end of the uploads", errs); err != nil {
					t.Fatal(err)
				}
			}
			expect(t, "idempotent requests of others answered right", r.idempotent.right, r.idempotent.sent)
			expect(t, "POSTs of others answered right", r.posts.right, r.posts.sent)
			expect(t, "ejections", len(h.told(t, "upstream ejected")), 0)
			expect(t, "pool faults", len(h.told(t, "all upstreams fail alike")), 0)
			for _, l := range h.faults(t) {
				if l.text("side") != "client" {
					t.Errorf("a client's doing was told as a fault: %v", l)
				}
			}
		})
	}
}

func addrsOf(origins []*faultinject.Origin) (addrs []string) {
	for _, o := range origins {
		addrs = append(addrs, o.Addr())
	}
	return addrs
}

// hostile is a client that breaks off what it begins.
type hostile struct {
	*server
	origins []*faultinject.Origin
}

func (h *hostile) run(breakOff func(h *hostile, id, method string) error, worker, n int) error {
	for i := range n {
		// PUT, too: it could be sent again, if the origin were to blame.
		method := []string{http.MethodPost, http.MethodPut}[i%2]
		if err := breakOff(h, fmt.Sprintf("hostile-%d-%d", worker, i), method); err != nil {
			return err
		}
	}
	return nil
}

// awaitArrival waits until an upload has come as far as an origin.
func (h *hostile) awaitArrival(id string) error {
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for _, o := range h.origins {
			if o.Executions(id) > 0 {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("upload %s came to no origin within %v", id, patience)
		}
	}
}

const hostileUpload = 200_000

type breakEnd int

const (
	closeConn breakEnd = iota
	resetConn
	resetStreams
)

// breakOffH1 sends half of what it announces.
func (h *hostile) breakOffH1(id, method string, end breakEnd) error {
	conn, err := net.DialTimeout("tcp", h.addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s /upload HTTP/1.1\r\nHost: %s\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s",
		method, h.addr, id, hostileUpload, strings.Repeat("x", hostileUpload/2)); err != nil {
		return err
	}
	if err := h.awaitArrival(id); err != nil || end == closeConn {
		return err
	}
	return conn.(*net.TCPConn).SetLinger(0)
}

// breakOffH2 begins some uploads on one connection and breaks all of them off.
func (h *hostile) breakOffH2(id, method string, end breakEnd) error {
	conn, err := net.DialTimeout("tcp", h.addr, patience)
	if err != nil {
		return err
	}
	// What the server says is read, lest the end of the connection be a reset
	// where none is meant.
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.Close()
	reading.Go(func() { _, _ = io.Copy(io.Discard, conn) })

	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(conn, nil)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	streams := []uint32{1, 3, 5}
	for _, stream := range streams {
		if err := h.beginUpload(f, stream, fmt.Sprint(id, "-", stream), method); err != nil {
			return err
		}
	}
	for _, stream := range streams {
		if err := h.awaitArrival(fmt.Sprint(id, "-", stream)); err != nil {
			return err
		}
		if end != resetStreams {
			continue
		}
		if err := f.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
			return err
		}
	}
	if end == resetConn {
		return conn.(*net.TCPConn).SetLinger(0)
	}
	return nil
}

// beginUpload sends less than the window that a stream has to begin with.
func (h *hostile) beginUpload(f *http2.Framer, stream uint32, id, method string) error {
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, field := range [][2]string{
		{":method", method}, {":scheme", "http"}, {":authority", h.addr}, {":path", "/upload"},
		{"x-request-id", id}, {"content-length", fmt.Sprint(hostileUpload)},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
		return err
	}
	return f.WriteData(stream, false, make([]byte, 12<<10))
}
