// SPDX-License-Identifier: Apache-2.0

// Agents: programs beside the upstreams that say, in HAProxy's agent-check
// protocol, whether these are to get requests, and how many.

package caddymodule

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/resetguard/caddy-resetguard/health/pressure"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

const (
	// agentTick is how often is looked whom to ask.
	agentTick = 250 * time.Millisecond
	// maxAgents bounds the agents that are asked at the same time, for all sites
	// together. The rest is asked later, who waits longest first.
	maxAgents = 16
	// agentSilent is how many tries in a row must fail before it is told.
	agentSilent = 3
	// agentBelieved is how long what an agent said counts after the last moment at
	// which a configuration had it asked. It bridges reloads.
	agentBelieved = 10 * time.Second
	// agentLineEvery bounds the log lines of one upstream's agent.
	agentLineEvery = time.Minute
)

// agentWatch is what the agent of one upstream said, and whether it answers.
type agentWatch struct {
	limiter *concurrency.Limiter                // gets the ceiling; nil in tests
	said    atomic.Pointer[pressure.AgentState] // nil: nothing; replaced, never changed

	mu            sync.Mutex // guards the rest, and the replacing
	asking        bool
	due           time.Time
	watched       time.Time // when a configuration last wanted it asked
	failures      int       // in a row
	current, told agentNews
	changes       int // since the last line
	line          time.Time
}

// agentNews is what is logged when it changes. The zero value is an agent that
// wants nothing.
type agentNews struct {
	silent, out bool
	cut         float64 // which part of its requests the upstream does not get
	max         int
}

// agentLine is a line to be written.
type agentLine struct {
	from, to agentNews
	changes  int
}

// watch notes that somebody wants the agent asked, and tells since when it is due;
// ok is false if it is not.
func (w *agentWatch) watch(now time.Time) (due time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = now
	return w.due, !w.asking && !now.Before(w.due)
}

// begin makes the caller the one who asks; false if somebody else does.
func (w *agentWatch) begin(interval time.Duration, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asking || now.Before(w.due) {
		return false
	}
	w.asking, w.due = true, now.Add(interval)
	return true
}

// giveUp ends asking without an outcome: the next configuration asks at once.
func (w *agentWatch) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking, w.due = false, time.Time{}
}

func (w *agentWatch) state() (s pressure.AgentState) {
	if said := w.said.Load(); said != nil {
		s = *said
	}
	return s
}

// hear takes in the outcome of asking. It returns the line to be written, if any:
// what changes within a minute of another line is summed up.
func (w *agentWatch) hear(s pressure.AgentState, err error, now time.Time) (line agentLine, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking = false
	if w.failures++; err == nil {
		w.failures = 0
		if s != w.state() {
			said := s // read by others from now on
			w.setLocked(&said)
		}
	}
	s = w.state()
	news := agentNews{w.failures >= agentSilent, !s.Usable(), 1 - s.Share(), s.MaxConns}
	if news != w.current {
		w.current = news
		w.changes++
	}
	if w.changes == 0 || !w.line.IsZero() && now.Sub(w.line) < agentLineEvery {
		return agentLine{}, false
	}
	line = agentLine{w.told, news, w.changes}
	w.told, w.changes, w.line = news, 0, now
	return line, true
}

// setLocked replaces what the agent said.
func (w *agentWatch) setLocked(said *pressure.AgentState) {
	w.said.Store(said)
	if w.limiter != nil {
		w.limiter.SetCeiling(w.state().MaxConns)
	}
}

// forget drops what the agent said if no configuration has it asked any more.
func (w *agentWatch) forget(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched.IsZero() || w.asking || now.Sub(w.watched) < agentBelieved {
		return
	}
	w.setLocked(nil)
	w.due, w.watched, w.failures = time.Time{}, time.Time{}, 0
	w.current, w.told, w.changes = agentNews{}, agentNews{}, 0
}

// silent tells that the agent is asked in vain; watched, that it is asked.
func (w *agentWatch) silent() (silent, watched bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures >= agentSilent, !w.watched.IsZero()
}

// agentAddr is where an upstream's agent listens; "" if it has no host of its own.
func agentAddr(upstream, port string) string {
	addr, err := caddy.ParseNetworkAddressWithDefaults(upstream, "tcp", 0)
	if err != nil || !strings.HasPrefix(addr.Network, "tcp") {
		return ""
	}
	return net.JoinHostPort(addr.Host, port)
}

// agentCall is an agent that is due.
type agentCall struct {
	site *site
	load *originLoad
	name string
	addr string
	due  time.Time
}

// watchAgents asks agents until ctx ends.
func (a *App) watchAgents(ctx context.Context) {
	ticker := time.NewTicker(agentTick)
	defer ticker.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, maxAgents)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, c := range a.dueAgents(now) {
				if !c.start(ctx, &running, free, now) {
					break
				}
			}
		}
	}
}

// dueAgents lists the agents to ask, who waits longest first. Where sites share an
// upstream, the first one that has an agent says where that is.
func (a *App) dueAgents(now time.Time) (calls []agentCall) {
	known := make(map[*originLoad]bool)
	for _, s := range a.order {
		r := s.roster.Load()
		if s.agent == nil || r == nil {
			continue
		}
		for i, l := range r.loads {
			if r.agents[i] == "" || known[l] {
				continue
			}
			known[l] = true
			if due, ok := l.agent.watch(now); ok {
				calls = append(calls, agentCall{s, l, r.names[i], r.agents[i], due})
			}
		}
	}
	slices.SortStableFunc(calls, func(a, b agentCall) int { return a.due.Compare(b.due) })
	return calls
}

// start asks in a goroutine of its own; false if too many are asked already.
func (c agentCall) start(ctx context.Context, running *sync.WaitGroup, free chan struct{}, now time.Time) bool {
	select {
	case free <- struct{}{}:
	default:
		return false
	}
	if !c.load.agent.begin(time.Duration(c.site.agent.Interval), now) {
		<-free
		return true
	}
	running.Go(func() {
		defer func() { <-free }()
		c.ask(ctx)
	})
	return true
}

func (c agentCall) ask(ctx context.Context) {
	w := &c.load.agent
	s, err := pressure.CheckAgent(ctx, c.addr, "", w.state())
	if ctx.Err() != nil {
		w.giveUp()
		return
	}
	line, ok := w.hear(s, err, time.Now())
	c.site.gateOn()
	if ok {
		c.tell(line, err)
	}
}

// tell writes what has changed.
func (c agentCall) tell(line agentLine, err error) {
	level, msg := line.words()
	ce := c.site.app.health.logger.Check(level, msg)
	if ce == nil {
		return
	}
	said := c.load.agent.state()
	fields := append(make([]zap.Field, 0, 9),
		zap.String("zone", clip(c.site.label())),
		zap.String("upstream", clip(c.name)),
		zap.String("agent", clip(c.addr)),
		zap.Stringer("service", said.Service),
		zap.Stringer("running", said.Running),
		zap.String("why", said.Why),
		zap.Float64("weight", round(said.Share())),
		zap.Int("max", said.MaxConns),
		zap.Int("changes", line.changes),
	)
	if err != nil {
		fields = append(fields, zap.String("error", clip(err.Error())))
	}
	ce.Write(fields...)
}

// words tells a change in plain words, and how urgent it is.
func (l agentLine) words() (zapcore.Level, string) {
	switch {
	case l.to.silent && !l.from.silent:
		return zapcore.WarnLevel, "upstream's agent does not answer"
	case l.to.out && !l.from.out:
		return zapcore.WarnLevel, "upstream's agent takes it out"
	case l.from.out && !l.to.out:
		return zapcore.InfoLevel, "upstream's agent lets it in"
	case l.from.silent && !l.to.silent:
		return zapcore.InfoLevel, "upstream's agent answers again"
	case l.from == l.to:
		return zapcore.InfoLevel, "upstream's agent goes to and fro"
	}
	return zapcore.InfoLevel, "upstream's agent changes how much it gets"
}
