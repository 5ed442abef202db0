// SPDX-License-Identifier: Apache-2.0

// This file is the origin server's life: starting, listening, accepting,
// changing its fault, counting and closing. It needs no Caddy.

package faultinject

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Origin is an HTTP server that misbehaves on purpose. Start makes one.
//
// Its normal answers are a line with the request's method and target, or for
// /bytes/N (N up to 64 MiB) the N bytes that [VersionBytes] returns, with range
// and conditional requests answered as a static file server would. Each has
// the headers X-Origin (the origin's name), X-Method, and X-Body-Sha256 (in
// hex, of the request's body as received). The query chunked=1 leaves
// Content-Length away. Connections are kept alive.
//
// A request counts as executed as soon as the origin may have acted on it: when
// its header was read whole, even if a fault strikes before its body has come
// or before it is answered. Only [GoAway] and [RefusedStream] tell the client
// that the request was not processed, and do not count.
//
// It is for tests: it does not limit connections or the size of headers.
type Origin struct {
	cfg      Config
	addr     *net.TCPAddr
	port     *heldPort
	certs    *certificates // nil without TLS
	dice     *dice
	ledger   *ledger
	accepted atomic.Int64
	requests atomic.Int64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept loops and connections

	mu     sync.Mutex // guards what follows
	ln     net.Listener
	conns  map[net.Conn]struct{}
	closed bool
}

// errClosed says that the origin cannot be changed any more.
var errClosed = errors.New("the origin is closed")

// Start makes an origin and lets it serve. Close it to end all its goroutines.
func Start(cfg Config) (*Origin, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring faulty origin: %w", err)
	}
	e, err := cfg.check(cfg.Fault, cfg.Probability)
	if err != nil {
		return nil, fmt.Errorf("configuring faulty origin: %w", err)
	}
	o := &Origin{
		cfg:    cfg,
		dice:   newDice(cfg.Seed, e, cfg.Probability),
		ledger: newLedger(),
		conns:  make(map[net.Conn]struct{}),
	}
	if cfg.Protocol.tls() {
		if o.certs, err = newCertificates(time.Now()); err != nil {
			return nil, fmt.Errorf("making certificates of faulty origin: %w", err)
		}
	}
	if err := o.bind(e.at == whileListening); err != nil {
		return nil, fmt.Errorf("starting faulty origin on %q: %w", cfg.Listen, err)
	}
	return o, nil
}

// bind takes the port and, unless the origin is to refuse, listens on it.
func (o *Origin) bind(refuse bool) error {
	addr, err := net.ResolveTCPAddr("tcp", o.cfg.Listen)
	if err != nil {
		return err
	}
	if addr.IP == nil {
		return errors.New("the address names no host: use for example 127.0.0.1:0")
	}
	if o.port, o.addr, err = holdPort(addr); err != nil {
		return err
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.mu.Lock()
	defer o.mu.Unlock()
	// Where holding chooses no port, listening does, even if only to refuse.
	if refuse && o.addr.Port != 0 {
		return nil
	}
	if err := o.listenLocked(); err != nil {
		o.cancel()
		o.port.release()
		return err
	}
	o.addr = o.ln.Addr().(*net.TCPAddr)
	if refuse {
		o.refuseLocked()
	}
	return nil
}

// Addr is the origin's address, host and port. It does not change.
func (o *Origin) Addr() string { return o.addr.String() }

// URL is the origin's base address, without a slash at the end.
func (o *Origin) URL() string {
	if o.cfg.Protocol.tls() {
		return "https://" + o.Addr()
	}
	return "http://" + o.Addr()
}

// RootCAs trusts the origin's good certificate; nil without TLS.
func (o *Origin) RootCAs() *x509.CertPool {
	if o.certs == nil {
		return nil
	}
	return o.certs.roots.Clone()
}

// CAPEM is the certificate of the origin's authority; nil without TLS.
func (o *Origin) CAPEM() []byte {
	if o.certs == nil {
		return nil
	}
	return append([]byte(nil), o.certs.caPEM...)
}

// Accepted is the number of connections accepted so far.
func (o *Origin) Accepted() int { return int(o.accepted.Load()) }

// Requests is the number of requests whose header was read whole so far.
func (o *Origin) Requests() int { return int(o.requests.Load()) }

// Executions is how often the origin may have acted on a request whose
// X-Request-Id is id. The first 100,000 different ids are counted.
func (o *Origin) Executions(id string) int { return o.ledger.count(id) }

// SetFault changes what goes wrong from now on and how often, from 0 (never)
// to 1 (always). It may be called while requests are served; these keep the
// fault that they drew. Changing to Refuse closes all open connections, as the
// end of a process does; changing from it listens again on the same port.
func (o *Origin) SetFault(f Fault, probability float64) error {
	e, err := o.cfg.check(f, probability)
	if err != nil {
		return fmt.Errorf("changing fault of origin %s: %w", o.Addr(), err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return fmt.Errorf("changing fault of origin %s: %w", o.Addr(), errClosed)
	}
	o.dice.load(e, probability)
	if e.at == whileListening && probability > 0 {
		o.refuseLocked()
		return nil
	}
	if err := o.listenLocked(); err != nil {
		return fmt.Errorf("listening again on %s: %w", o.Addr(), err)
	}
	return nil
}

// Close ends the listener, all connections and all stalls, and waits for their
// goroutines. It may be called more than once.
func (o *Origin) Close() {
	o.mu.Lock()
	if !o.closed {
		o.closed = true
		o.cancel()
		o.refuseLocked()
		o.port.release()
	}
	o.mu.Unlock()
	o.wg.Wait()
}

func (o *Origin) listenLocked() error {
	if o.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", o.addr.String())
	if err != nil {
		return err
	}
	o.ln = ln
	o.wg.Go(func() { o.acceptFrom(ln) })
	return nil
}

func (o *Origin) refuseLocked() {
	if o.ln != nil {
		_ = o.ln.Close()
		o.ln = nil
	}
	for c := range o.conns {
		_ = c.Close()
	}
}

func (o *Origin) acceptFrom(ln net.Listener) {
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // for example out of files: others may give some back
			wait(o.ctx, 10*time.Millisecond)
		case o.admit(ln, c):
			o.wg.Go(func() {
				defer o.dismiss(c)
				o.serve(c)
			})
		}
	}
}

// admit takes a connection into the books. A listener that was closed
// meanwhile brings no new ones.
func (o *Origin) admit(ln net.Listener, c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ln != ln {
		_ = c.Close()
		return false
	}
	o.accepted.Add(1)
	o.conns[c] = struct{}{}
	return true
}

func (o *Origin) dismiss(c net.Conn) {
	_ = c.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, c)
}

func (o *Origin) serve(raw net.Conn) {
	w := &wire{raw, raw}
	e := o.dice.connection()
	if e.at == onAccept {
		if e.how == byStall {
			// Not wire.stall: this one never reads.
			wait(o.ctx, o.cfg.StallFor)
		}
		w.end(e.how, 0)
		return
	}
	if o.cfg.Protocol.tls() {
		if w = o.handshake(raw, e); w == nil {
			return
		}
	}
	ctx, cancel := context.WithCancel(o.ctx)
	defer cancel()
	if o.cfg.Protocol.h2() {
		newH2Conn(ctx, cancel, o, w).serve()
		return
	}
	newH1Conn(ctx, o, w).serve()
}

// begin enters a request whose header was read into the books and draws its
// fault.
func (o *Origin) begin(id string, reused bool) entry {
	e := o.dice.request()
	if e.at == onReuse && !reused {
		e = entry{fault: None}
	}
	// Before the counter, so that who sees the request counted finds it executed.
	if !e.unprocessed() {
		o.ledger.enter(id)
	}
	o.requests.Add(1)
	return e
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
