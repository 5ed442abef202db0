// SPDX-License-Identifier: Apache-2.0

// Events, handed to Caddy's events app without holding anybody up.

package caddymodule

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
)

const (
	// maxWaitingEvents is more than a pool's upstreams can bring about before an
	// operator would look at the log instead.
	maxWaitingEvents = 256
	// eventsGrace is how long a configuration that ends waits for the handlers of
	// its last events, before it cancels their context.
	eventsGrace = time.Second
)

// eventQueue emits events one after the other. Caddy runs the handlers in the
// goroutine that emits, which here may be a client's request: a handler that
// runs a command would hold it up. What does not fit is dropped and counted.
//
// Nothing is emitted before the whole configuration has started: until then the
// events app may still be taking subscriptions, without a lock.
type eventQueue struct {
	ctx     caddy.Context
	events  *caddyevents.App
	logger  *zap.Logger
	metrics *metrics
	cancel  context.CancelFunc // ends the handlers' context; nil if not begun

	waiting chan queuedEvent
	full    atomic.Bool // it was logged that events are dropped
	quit    chan struct{}
	done    chan struct{}
}

type queuedEvent struct {
	name string
	data map[string]any
}

func newEventQueue(ctx caddy.Context, events *caddyevents.App, m *metrics) (*eventQueue, error) {
	q := &eventQueue{
		ctx: ctx, events: events, logger: ctx.Logger(), metrics: m,
		waiting: make(chan queuedEvent, maxWaitingEvents),
		quit:    make(chan struct{}), done: make(chan struct{}),
	}
	return q, events.On("started", &onStarted{q.begin})
}

// onStarted handles Caddy's event that all apps have started.
type onStarted struct{ do func() }

// Handle implements caddyevents.Handler.
func (s *onStarted) Handle(context.Context, caddy.Event) error {
	s.do()
	return nil
}

func (q *eventQueue) begin() {
	if q.cancel != nil {
		return
	}
	q.ctx.Context, q.cancel = context.WithCancel(q.ctx.Context)
	go q.run()
}

// put never waits.
func (q *eventQueue) put(name string, data map[string]any) {
	select {
	case <-q.quit: // a request of a configuration that has ended
		q.metrics.eventsDropped.Inc()
		return
	default:
	}
	select {
	case q.waiting <- queuedEvent{name, data}:
	default:
		q.metrics.eventsDropped.Inc()
		if q.full.CompareAndSwap(false, true) {
			q.logger.Warn("events dropped", zap.Int("waiting", maxWaitingEvents),
				zap.String("hint", "The handlers of events are slower than the events come. The log has them all; reset_guard_events_dropped_total counts what was dropped."))
		}
	}
}

func (q *eventQueue) run() {
	defer close(q.done)
	for {
		select {
		case e := <-q.waiting:
			q.emit(e)
		case <-q.quit:
			q.finish()
			return
		}
	}
}

func (q *eventQueue) emit(e queuedEvent) {
	q.events.Emit(q.ctx, e.name, e.data)
	if len(q.waiting) == 0 {
		q.full.Store(false)
	}
}

// finish emits what is left, as long as there is grace.
func (q *eventQueue) finish() {
	for {
		select {
		case e := <-q.waiting:
			if q.ctx.Err() != nil {
				q.metrics.eventsDropped.Inc()
				continue
			}
			q.emit(e)
		default:
			return
		}
	}
}

// stop ends the goroutine. A handler that does not end within the grace is left
// to itself, with its context canceled: Caddy must be able to reload.
func (q *eventQueue) stop() {
	close(q.quit)
	if q.cancel == nil {
		return
	}
	defer q.cancel()
	timer := time.NewTimer(eventsGrace)
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
		q.logger.Warn("a handler of events is still running", zap.Duration("waited", eventsGrace))
	}
}
