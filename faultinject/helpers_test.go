// SPDX-License-Identifier: Apache-2.0

// This file is what the tests share: clients, and names for what they see.

package faultinject

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs an origin for the length of a test.
func start(t *testing.T, cfg Config) *Origin {
	t.Helper()
	o, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// dial opens a connection that nobody manages.
func dial(t *testing.T, o *Origin) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", o.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// do sends a request on a client and reads the whole answer.
func do(c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

// client is a net/http client that trusts the origin and ends with the test.
func client(t *testing.T, o *Origin) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	switch o.cfg.Protocol {
	case H2:
		tr.Protocols.SetHTTP2(true)
	case H2C:
		tr.Protocols.SetUnencryptedHTTP2(true)
	default:
		tr.Protocols.SetHTTP1(true)
	}
	tr.TLSClientConfig = trusting(o)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// isReset is what a TCP reset looks like; Windows and macOS differ in which
// call notices it.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || strings.Contains(fmt.Sprint(err), "forcibly closed")
}

// isClosed is what an orderly but early end looks like.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(fmt.Sprint(err), "server closed idle connection")
}

// isGone is what a client sees that still writes when the connection breaks:
// it depends on which call notices first.
func isGone(err error) bool {
	text := fmt.Sprint(err)
	return isReset(err) || isClosed(err) || strings.Contains(text, "use of closed network connection") ||
		strings.Contains(text, "client conn could not be established")
}

func saying(s string) func(error) bool {
	return func(err error) bool { return strings.Contains(fmt.Sprint(err), s) }
}

// waitFor polls until the condition holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20s for %s", what)
		}
	}
}

func trusting(o *Origin) *tls.Config {
	if o.RootCAs() == nil {
		return nil
	}
	return &tls.Config{RootCAs: o.RootCAs()}
}
