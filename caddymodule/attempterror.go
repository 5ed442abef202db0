// SPDX-License-Identifier: Apache-2.0

// The error by which Caddy's proxy learns what became of an attempt.

package caddymodule

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/health"
)

// attemptError tells Caddy's proxy of a failed attempt.
type attemptError struct {
	fault    health.Fault
	upstream string
	retry    bool
	err      error
}

func (e *attemptError) Error() string {
	var b strings.Builder
	b.WriteString("upstream ")
	b.WriteString(e.upstream)
	b.WriteString(": ")
	b.WriteString(string(e.fault.Cause))
	b.WriteString(" in phase ")
	b.WriteString(string(e.fault.Phase))
	if e.fault.StatusCode != 0 {
		b.WriteString(": status ")
		b.WriteString(strconv.Itoa(e.fault.StatusCode))
	}
	if e.err != nil {
		b.WriteString(": ")
		b.WriteString(clip(e.err.Error()))
	}
	return b.String()
}

// Unwrap gives the cause. Caddy's proxy retries a DialError without asking, so
// one that must not be retried is hidden; and it takes context.Canceled for the
// client's doing.
func (e *attemptError) Unwrap() error {
	if e.fault.Cause != health.ClientGone && errors.Is(e.err, context.Canceled) {
		return nil
	}
	var dial reverseproxy.DialError
	if e.retry || !errors.As(e.err, &dial) {
		return e.err
	}
	var failure *dialFailure
	if errors.As(e.err, &failure) {
		return failure.cause
	}
	return nil
}

// Timeout makes Caddy's proxy answer 504 instead of 502.
func (e *attemptError) Timeout() bool { return e.fault.Cause == health.Timeout }

// Temporary completes net.Error.
func (e *attemptError) Temporary() bool { return e.Timeout() }
