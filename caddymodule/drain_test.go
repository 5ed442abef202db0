// SPDX-License-Identifier: Apache-2.0

// How long a client is listened to that has its answer and goes on uploading.

package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// trickle is an upload of a byte a second that never ends, with the connection's
// read deadline.
type trickle struct {
	*httptest.ResponseRecorder
	deadline time.Time
	read     int64
}

func (c *trickle) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *trickle) Read(p []byte) (int, error) {
	next := time.Second
	if !c.deadline.IsZero() && time.Until(c.deadline) < next {
		time.Sleep(max(0, time.Until(c.deadline)))
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(next)
	c.read++
	return copy(p, "x"), nil
}

func TestDrainEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &trickle{ResponseRecorder: httptest.NewRecorder()}
		ex := new(exchange)
		ex.body.ReadCloser = io.NopCloser(c)
		began := time.Now()
		drain(ex, c)
		if took := time.Since(began); took != drainTime {
			t.Errorf("took %v, want %v", took, drainTime)
		}
		if c.read == 0 || c.deadline.After(time.Now()) || c.deadline.IsZero() {
			t.Errorf("after %d bytes the deadline is %v: net/http would read on", c.read, c.deadline)
		}
	})
}

// The rest of an upload that a proxy has declared spent is read by the one in its
// error route, which answers.
func TestDrainOfSpentUpload(t *testing.T) {
	c := &trickle{ResponseRecorder: httptest.NewRecorder()}
	rest := strings.NewReader("the rest")
	inner, outer := new(exchange), new(exchange)
	inner.body.ReadCloser = io.NopCloser(rest)
	inner.body.spent.Store(true)
	outer.body.ReadCloser = &inner.body
	drain(outer, c)
	if rest.Len() > 0 || !c.deadline.IsZero() {
		t.Errorf("%d bytes are left, the deadline is %v", rest.Len(), c.deadline)
	}
}

// Whoever finishes within the limits keeps the connection.
func TestDrainOfFinishedUpload(t *testing.T) {
	c := &trickle{ResponseRecorder: httptest.NewRecorder()}
	ex := new(exchange)
	ex.body.ReadCloser = http.NoBody
	drain(ex, c)
	if !c.deadline.IsZero() {
		t.Errorf("the connection keeps the deadline %v", c.deadline)
	}
}
