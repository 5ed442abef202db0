// SPDX-License-Identifier: Apache-2.0

// This file does the server's side of a TLS handshake, or breaks it.

package faultinject

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// handshakeFor bounds a handshake with a client that does not go on.
const handshakeFor = 10 * time.Second

// alertHandshakeFailure is a whole TLS record: alert, TLS 1.2, two bytes,
// fatal, handshake_failure (RFC 8446, section 6).
const alertHandshakeFailure = "\x15\x03\x03\x00\x02\x02\x28"

// handshake returns the connection under TLS, or nil if there is none. Then it
// has dealt with the connection.
func (o *Origin) handshake(raw net.Conn, e entry) *wire {
	bare := &wire{raw, raw}
	if e.at == inHandshake && e.how != byCertificate {
		o.breakHandshake(bare, e)
		return nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, handshakeFor)
	defer cancel()
	conn := tls.Server(raw, o.certs.config(e.fault, o.cfg.Protocol))
	if err := conn.HandshakeContext(ctx); err != nil {
		bare.finish() // reading on, so that the client gets our alert
		return nil
	}
	return &wire{conn, raw}
}

func (o *Origin) breakHandshake(w *wire, e entry) {
	if !readClientHello(w) {
		w.finish()
		return
	}
	switch e.how {
	case byPlaintext:
		_, _ = io.WriteString(w, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	case byAlert:
		_, _ = io.WriteString(w, alertHandshakeFailure)
	}
	w.end(e.how, o.cfg.StallFor)
}

// readClientHello reads one TLS record, so that the fault strikes in the
// handshake and not before it.
func readClientHello(w *wire) bool {
	_ = w.SetReadDeadline(time.Now().Add(handshakeFor))
	var header [5]byte // type, version, length
	if _, err := io.ReadFull(w, header[:]); err != nil {
		return false
	}
	_, err := io.CopyN(io.Discard, w, int64(binary.BigEndian.Uint16(header[3:])))
	return err == nil
}
