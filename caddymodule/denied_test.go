// SPDX-License-Identifier: Apache-2.0

// Errors that come fast are no sign of speed.

package caddymodule_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An upstream that answers everything with an error at once, as one does whose
// deployment went wrong, does not draw the requests to itself.
func TestFastErrorsDrawNoRequests(t *testing.T) {
	var wrong atomic.Int64
	bad := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		wrong.Add(1)
		w.WriteHeader(http.StatusNotFound)
	})
	good := after(20 * time.Millisecond).ServeHTTP
	s := serve(t, guarded+" "+join(bad, origin(t, good), origin(t, good)))
	const workers, each = 6, 100
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				s.get(t, "/")
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n > workers*each/2 {
		t.Errorf("%d of %d requests went to the upstream that answers errors, want at most half", n, workers*each)
	}
}
