// SPDX-License-Identifier: Apache-2.0

// This file is the client: it sends requests and sees what comes back.

package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// clientTimeout is how long the client waits for a complete answer.
const clientTimeout = 2 * time.Second

// maxReply bounds what is read of an answer. Right answers are shorter, and
// so are error pages.
const maxReply = 1 << 20

// wanted is what the body of each right answer begins with. It is never written to.
var wanted = faultinject.Bytes(largeSize)

// client sends each request on a connection of its own. On one that is reused,
// net/http would send some requests again by itself, and would hide the very
// resets that are to be counted.
type client struct{ http.Client }

func newClient() *client {
	return &client{http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:   clientTimeout,
	}}
}

// send sends one request. The origins know it by id.
func (c *client) send(ctx context.Context, base, id string, q request) sample {
	start := time.Now()
	r := c.receive(ctx, base, id, q)
	s := sample{took: time.Since(start)}
	s.outcome, s.why = judge(q, r)
	return s
}

func (c *client) receive(ctx context.Context, base, id string, q request) reply {
	req, err := http.NewRequestWithContext(ctx, q.method, fmt.Sprintf("%s/bytes/%d", base, q.size), nil)
	if err != nil {
		return reply{err: err}
	}
	if q.body != nil {
		// Without GetBody, which would let net/http send it twice.
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(q.body)), int64(len(q.body))
	}
	req.Header.Set("X-Request-Id", id)
	if q.key {
		req.Header.Set("Idempotency-Key", id)
	}
	res, err := c.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	return reply{status: res.StatusCode, header: res.Header, body: body, err: err}
}
