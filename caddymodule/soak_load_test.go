// SPDX-License-Identifier: Apache-2.0

// The load of the soak: requests at a steady rate that waits for no answer, and
// what came of each in the client's eyes.

package caddymodule_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
	"github.com/resetguard/caddy-resetguard/health"
)

const (
	soakRate    = 200 // requests a second
	soakAnswer  = 8 << 10
	soakUpload  = 4 << 10
	soakTimeout = 10 * time.Second // what takes longer is broken
)

// soakMix is the order of methods: eight of ten requests are idempotent, and no
// POST carries a key.
var soakMix = [10]string{"GET", "PUT", "GET", "POST", "GET", "GET", "PUT", "GET", "POST", "GET"}

var (
	soakWanted = faultinject.Bytes(soakAnswer)
	soakBody   = faultinject.Bytes(soakUpload)
	soakSum    = sha256Hex(soakBody)
)

func sha256Hex(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// soakTally is what became of the requests of one kind.
type soakTally struct {
	sent, right, clean, broken int
	why                        map[string]int // of those that were not right
}

func (t *soakTally) add(outcome, why string) {
	t.sent++
	switch outcome {
	case "right":
		t.right++
		return
	case "clean":
		t.clean++
	default:
		t.broken++
	}
	if t.why == nil {
		t.why = make(map[string]int)
	}
	t.why[why]++
}

// soakResult is what became of a load.
type soakResult struct {
	mu                sync.Mutex // guards what follows while the load runs
	idempotent, posts soakTally
	took              []time.Duration // of the right ones
	postIDs           []string
}

// p99 is the time that one right answer in a hundred exceeds.
func (r *soakResult) p99() time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	slices.Sort(r.took)
	return r.took[len(r.took)*99/100]
}

// runLoad sends requests for so long, each at its time whatever became of the
// ones before, and waits for their answers.
func runLoad(ctx context.Context, base string, long time.Duration) *soakResult {
	// A connection for each request: on one that is used again, net/http would
	// repeat requests by itself and hide resets.
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:   soakTimeout,
	}
	r := new(soakResult)
	var wg sync.WaitGroup
	start, n := time.Now(), int(long.Seconds()*soakRate)
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / soakRate))) // the pace
		wg.Go(func() { r.send(ctx, client, base, i) })
	}
	wg.Wait()
	return r
}

func (r *soakResult) send(ctx context.Context, client *http.Client, base string, i int) {
	method, id := soakMix[i%len(soakMix)], fmt.Sprintf("soak-%d", i)
	begun := time.Now()
	outcome, why := sendSoak(ctx, client, base, method, id)
	took := time.Since(begun)
	r.mu.Lock()
	defer r.mu.Unlock()
	if outcome == "right" {
		r.took = append(r.took, took)
	}
	if method == http.MethodPost {
		r.postIDs = append(r.postIDs, id)
		r.posts.add(outcome, why)
		return
	}
	r.idempotent.add(outcome, method+" "+why)
}

// sendSoak sends one request and judges what came back.
func sendSoak(ctx context.Context, client *http.Client, base, method, id string) (outcome, why string) {
	var body io.Reader
	sum := sha256Hex(nil)
	if method != http.MethodGet {
		body, sum = io.NopCloser(bytes.NewReader(soakBody)), soakSum // no GetBody: net/http may not send it twice
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/bytes/%d", base, soakAnswer), body)
	if err != nil {
		return "broken", err.Error()
	}
	if body != nil {
		req.ContentLength = soakUpload
	}
	req.Header.Set("X-Request-Id", id)
	res, err := client.Do(req)
	if err != nil {
		return "broken", string(health.Classify(err, health.Evidence{}).Cause)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return "broken", fmt.Sprintf("%s in the body of a %d", health.Classify(err, health.Evidence{}).Cause, res.StatusCode)
	case res.StatusCode >= 500 && res.StatusCode <= 599 && int64(len(got)) == res.ContentLength:
		return "clean", fmt.Sprint("status ", res.StatusCode)
	case res.StatusCode != http.StatusOK || !bytes.Equal(got, soakWanted) ||
		res.Header.Get("X-Method") != method || res.Header.Get("X-Body-Sha256") != sum:
		return "broken", "wrong answer"
	}
	return "right", ""
}

// whyNot lists the reasons, for the log.
func (t *soakTally) whyNot() string {
	var all []string
	for why, n := range t.why {
		all = append(all, fmt.Sprintf("%s: %d", why, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
