// SPDX-License-Identifier: Apache-2.0

// This file runs the traffic, fault by fault.

package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// run sends the same traffic on all ways, for each fault in turn. With an error
// comes the report of the faults that were finished before.
func run(ctx context.Context, opts options, p progress) (*report, error) {
	rep := &report{opts: opts}
	if err := opts.validate(); err != nil {
		return rep, err
	}
	end := time.Now().Add(opts.limit)
	for i, f := range opts.faults {
		now := time.Now()
		p.begin(f, now)
		until := now.Add(allowance(end.Sub(now), opts.requests, len(opts.faults)-i))
		r, err := runFault(ctx, f, opts, until, p)
		if err != nil {
			p.close()
			return rep, err
		}
		rep.rows = append(rep.rows, r)
		p.end(r.sent(), time.Now())
	}
	p.close()
	return rep, nil
}

// allowance is how long the next of the faults may take: what those after it do
// not need for their requests at full pace, but no less than its equal share.
func allowance(left time.Duration, requests, faults int) time.Duration {
	others := time.Duration(requests) * pace * time.Duration(faults-1)
	return max(left-others, left/time.Duration(faults))
}

// runFault opens a lab of its own, so that no fault shows in the next one's row.
func runFault(ctx context.Context, f faultinject.Fault, opts options, until time.Time, p progress) (r *row, err error) {
	l, err := openLab(f, opts.probability, opts.seed)
	if err != nil {
		return nil, fmt.Errorf("setting up fault %s: %w", f, err)
	}
	defer func() { err = errors.Join(err, l.close()) }()

	e := &experiment{
		lab:      l,
		client:   newClient(),
		requests: traffic(opts.seed, opts.requests, circumstancesOf(f).size),
		samples:  make([][ways]sample, opts.requests),
	}
	sent := e.send(ctx, until, p)
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("fault %s: %w", f, err)
	}
	r = e.row(f, sent)
	if t := r.tally[direct]; t.all.lost() > 0 {
		return nil, fmt.Errorf("fault %s: %d of %d requests to a healthy origin failed without any proxy (%v), so that nothing can be compared: try again while the machine is less busy",
			f, t.all.lost(), t.all.sent, t.why)
	}
	return r, nil
}

// experiment is the traffic under one fault.
type experiment struct {
	lab      *lab
	client   *client
	requests []request
	samples  [][ways]sample // of each request, on each way
}

// send sends the requests and returns how many of them: fewer than all if the
// time was up or ctx ended.
func (e *experiment) send(ctx context.Context, until time.Time, p progress) (sent int) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range next {
				e.sendOne(ctx, i)
				p.step(time.Now())
			}
		})
	}
	// A ticker makes up for nothing: after a stall there is no burst.
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for now := time.Now(); sent < len(e.requests) && (sent == 0 || now.Before(until)); sent++ {
		next <- sent
		select {
		case now = <-ticker.C:
		case <-ctx.Done():
			now = until
		}
	}
	close(next)
	wg.Wait()
	return sent
}

// sendOne sends a request on all ways, one after the other, so that what else
// the machine does meanwhile falls on all of them. Which one is first changes
// from request to request.
func (e *experiment) sendOne(ctx context.Context, i int) {
	for k := range ways {
		w := (way(i) + k) % ways
		e.samples[i][w] = e.client.send(ctx, e.lab.base[w], requestID(w, i), e.requests[i])
	}
}

func requestID(w way, i int) string { return fmt.Sprintf("%v-%d", w, i) }

// row adds up the first requests.
func (e *experiment) row(f faultinject.Fault, sent int) *row {
	r := &row{fault: f}
	for i, q := range e.requests[:sent] {
		for w := range ways {
			t := &r.tally[w]
			t.add(q, e.samples[i][w])
			if !q.repeatable() && e.lab.executions(requestID(w, i)) > 1 {
				t.twice++
			}
		}
	}
	return r
}
