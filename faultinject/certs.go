// SPDX-License-Identifier: Apache-2.0

// This file makes certificates in memory: a good one, and bad ones.

package faultinject

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// wrongName is what the certificate of TLSWrongName is for (RFC 6761: it never resolves).
const wrongName = "wrong-name.invalid"

// certificates holds one authority of our own and what it signed.
type certificates struct {
	roots *x509.CertPool
	caPEM []byte

	good, expired, wrongName, untrusted tls.Certificate
}

// authority signs certificates for one key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCertificates(now time.Time) (*certificates, error) {
	trusted, err := newAuthority("Reset Guard faultinject CA", now)
	if err != nil {
		return nil, err
	}
	stranger, err := newAuthority("Reset Guard faultinject unknown CA", now)
	if err != nil {
		return nil, err
	}
	cs := &certificates{
		roots: x509.NewCertPool(),
		caPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw}),
	}
	cs.roots.AddCert(trusted.cert)

	local := x509.Certificate{
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.AddDate(1, 0, 0),
	}
	old, other := local, local
	old.NotBefore, old.NotAfter = now.AddDate(0, -2, 0), now.AddDate(0, -1, 0)
	other.DNSNames, other.IPAddresses = []string{wrongName}, nil
	for _, c := range []struct {
		to       *tls.Certificate
		by       *authority
		template x509.Certificate
	}{
		{&cs.good, trusted, local},
		{&cs.expired, trusted, old},
		{&cs.wrongName, trusted, other},
		{&cs.untrusted, stranger, local},
	} {
		if *c.to, err = c.by.sign(c.template); err != nil {
			return nil, err
		}
	}
	return cs, nil
}

func newAuthority(name string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %q: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.AddDate(-1, 0, 0),
		NotAfter:              now.AddDate(2, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %q: %w", name, err)
	}
	return &authority{cert, key}, nil
}

// sign makes a server certificate. All of an authority's certificates use its
// own key: nobody is to be convinced, only handshakes to be had.
func (a *authority) sign(template x509.Certificate) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("drawing a serial number: %w", err)
	}
	template.SerialNumber = serial
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, a.key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("signing a server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}, nil
}

// config is the TLS configuration that has the fault.
func (cs *certificates) config(f Fault, p Protocol) *tls.Config {
	c := &tls.Config{Certificates: []tls.Certificate{cs.good}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	if p.h2() {
		c.NextProtos = []string{"h2"}
	}
	switch f {
	case TLSExpired:
		c.Certificates[0] = cs.expired
	case TLSWrongName:
		c.Certificates[0] = cs.wrongName
	case TLSUntrusted:
		c.Certificates[0] = cs.untrusted
	case TLSVersion:
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	case TLSClientCert:
		c.ClientAuth = tls.RequireAnyClientCert
	}
	return c
}
