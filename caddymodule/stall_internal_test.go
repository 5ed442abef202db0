// SPDX-License-Identifier: Apache-2.0

// The watchdogs of many attempts share a timer and still keep time.

package caddymodule

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchdogsKeepTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 8 * time.Second
		tr := &Transport{watchdogs: newWatchdogs(limit)}
		req := httptest.NewRequest("GET", "/", nil)
		start := func() (a *attempt, ended chan time.Duration) {
			began := time.Now()
			a, ended = &attempt{transport: tr}, make(chan time.Duration, 1)
			a.abort = func(error) { ended <- time.Since(began) }
			a.answering.Store(true)
			a.reads.Store(1) // somebody waits for the answer's next bytes
			a.watchStall(req)
			return a, ended
		}
		inTime := func(what string, took, from time.Duration) {
			t.Helper()
			if took < from || took > from+limit/stallTicks {
				t.Errorf("%s was ended after %v, want %v and a quarter at most", what, took, limit)
			}
		}

		first, firstEnded := start()
		brief, briefEnded := start()
		time.Sleep(limit/stallTicks + limit/10)
		brief.dismiss()
		second, secondEnded := start() // with the watchdog of brief, between two looks
		moving, movingEnded := start()
		go func() {
			time.Sleep(limit / 2)
			moving.reads.Add(2)
		}()
		inTime("the first", <-firstEnded, limit)
		inTime("the second", <-secondEnded, limit)
		inTime("the one that moved once", <-movingEnded, limit+limit/2)
		for _, a := range []*attempt{first, second, moving} {
			if !a.stalled.Load() {
				t.Error("an attempt does not know why it ended")
			}
			a.dismiss()
		}
		select {
		case <-briefEnded:
			t.Error("an attempt was ended after it was over")
		default:
		}
		time.Sleep(limit) // the last round finds nobody on duty; a timer that ran on would keep the bubble
		d := tr.watchdogs
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer != nil || len(d.onDuty) > 0 {
			t.Errorf("with nobody on duty %d are listed, and the timer is %v", len(d.onDuty), d.timer)
		}
	})
}
