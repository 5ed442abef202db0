// SPDX-License-Identifier: Apache-2.0

// What peers that speak TLS need.

package health_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// newCertificate makes a certificate for 127.0.0.1 and a pool that trusts it.
func newCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// gatedConn lets a TLS server read what follows its own first flight only when
// the gate is open.
type gatedConn struct {
	net.Conn
	gate  <-chan struct{}
	wrote atomic.Bool
}

func (g *gatedConn) Write(p []byte) (int, error) {
	g.wrote.Store(true)
	return g.Conn.Write(p)
}

func (g *gatedConn) Read(p []byte) (int, error) {
	if g.wrote.Load() {
		<-g.gate
	}
	return g.Conn.Read(p)
}

// watch tells of the first connection that net/http closes it, and, if asked, that
// something was written.
func (c *client) watch() *watch {
	w := &watch{closed: make(chan struct{})}
	c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := c.dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return health.WatchConn(&toldConn{Conn: conn, watch: w}), nil
	}
	return w
}

type watch struct {
	closed  chan struct{}
	closing sync.Once
	wrote   atomic.Pointer[func()] // called after each write from now on
}

type toldConn struct {
	net.Conn
	watch *watch
}

func (c *toldConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if wrote := c.watch.wrote.Load(); wrote != nil && n > 0 {
		(*wrote)()
	}
	return n, err
}

func (c *toldConn) Close() error {
	c.watch.closing.Do(func() { close(c.watch.closed) })
	return c.Conn.Close()
}
