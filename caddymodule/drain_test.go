// SPDX-License-Identifier: Apache-2.0

// How long a client is listened to that has its answer and goes on uploading.

package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
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
	for name, size := range map[string]int64{"declared": 1 << 30, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &trickle{ResponseRecorder: httptest.NewRecorder()}
				r := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(c))
				r.ContentLength = size
				began := time.Now()
				drain(new(exchange), c, r)
				if took := time.Since(began); took != drainTime {
					t.Errorf("took %v, want %v", took, drainTime)
				}
				if c.read == 0 || c.deadline.After(time.Now()) || c.deadline.IsZero() {
					t.Errorf("after %d bytes the deadline is %v: net/http would read on", c.read, c.deadline)
				}
			})
		})
	}
}

// Whoever finishes within the limits keeps the connection.
func TestDrainOfFinishedUpload(t *testing.T) {
	c := &trickle{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	drain(new(exchange), c, r)
	if !c.deadline.IsZero() {
		t.Errorf("the connection keeps the deadline %v", c.deadline)
	}
}
