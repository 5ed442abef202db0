// SPDX-License-Identifier: Apache-2.0

// On TLS an alert must not look like a part of a request: every connection that
// is closed in good order sends one.

package health

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"
)

// writeSizes notes how long each write was.
type writeSizes struct {
	net.Conn
	sizes []int
}

func (w *writeSizes) Write(p []byte) (int, error) {
	w.sizes = append(w.sizes, len(p))
	return w.Conn.Write(p)
}

func (w *writeSizes) last() int { return w.sizes[len(w.sizes)-1] }

// tlsPair is a TLS connection after its handshake.
func tlsPair(t *testing.T, version uint16, suites ...uint16) (*tls.Conn, *Conn, *writeSizes) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, peer := tcpPair(t)
	sizes := &writeSizes{Conn: raw}
	c := WatchConn(sizes)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_, _ = io.Copy(io.Discard, tls.Server(peer, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			CipherSuites: suites,
		}))
	}()
	t.Cleanup(func() {
		_ = raw.Close()
		<-served
	})
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, CipherSuites: suites})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	return tc, c, sizes
}

var tlsKinds = []struct {
	name    string
	version uint16
	suite   uint16
	counted bool // its alerts are too long, and count as if they were requests
}{
	{"1.3", tls.VersionTLS13, 0, false},
	{"1.2 AES-GCM", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
	{"1.2 AES-256-GCM", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, false},
	{"1.2 ChaCha20", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false},
	// An old mode that pads. Too high a count only forbids a retry.
	{"1.2 AES-CBC", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, true},
}

func TestConnDoesNotCountAlerts(t *testing.T) {
	for _, kind := range tlsKinds {
		t.Run(kind.name, func(t *testing.T) {
			tc, c, sizes := tlsPair(t, kind.version, kind.suite)
			before := c.Sent()
			if err := tc.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if short := sizes.last() <= tlsAlertMax; short == kind.counted {
				t.Errorf("close_notify takes %d bytes, at most %d for an alert", sizes.last(), tlsAlertMax)
			}
			if counted := c.Sent() != before; counted != kind.counted {
				t.Errorf("close_notify counted: %v, want %v", counted, kind.counted)
			}
		})
	}
}

func TestConnCountsTheShortestRequest(t *testing.T) {
	var h1 bytes.Buffer
	req, err := http.NewRequest("A", "http://a/", nil) // a method of one letter, a host of one letter
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "") // and nothing else
	if err := req.Write(&h1); err != nil {
		t.Fatal(err)
	}
	// A HEADERS frame has 9 bytes of its own, and at least one for each of the
	// four pseudo-header fields (RFC 9113 sections 4.1 and 8.3.1).
	const h2 = 9 + 4
	for _, kind := range tlsKinds {
		for _, request := range [][]byte{h1.Bytes(), make([]byte, h2)} {
			tc, c, sizes := tlsPair(t, kind.version, kind.suite)
			before := c.Sent()
			if _, err := tc.Write(request); err != nil {
				t.Fatal(err)
			}
			if sizes.last() <= tlsAlertMax || c.Sent()-before != int64(sizes.last()) {
				t.Errorf("%s: a request of %d bytes takes %d, of which %d are counted; want all, more than %d",
					kind.name, len(request), sizes.last(), c.Sent()-before, tlsAlertMax)
			}
		}
	}
}

// Without TLS every byte is one of a request, however few.
func TestConnCountsShortWritesWithoutTLS(t *testing.T) {
	raw, _ := tcpPair(t)
	c := WatchConn(raw)
	for i := int64(1); i <= tlsAlertMax; i++ {
		if _, err := c.Write([]byte{recordTypeHandshake - 1}); err != nil || c.Sent() != i {
			t.Fatalf("got %d bytes counted, %v; want %d", c.Sent(), err, i)
		}
	}
}
