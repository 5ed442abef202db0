// SPDX-License-Identifier: Apache-2.0

// What origins say of their own load: load reports, Retry-After, agents.

package caddymodule

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/resetguard/caddy-resetguard/health"
	"github.com/resetguard/caddy-resetguard/health/pressure"
	"github.com/resetguard/caddy-resetguard/ratelimit/concurrency"
)

// originLoad is what is known of the load of one origin. It outlives
// configurations.
type originLoad struct {
	limiter *concurrency.Limiter
	origin  *pressure.Origin
	agent   agentWatch
	// salt makes the lots of origins differ.
	salt   uint64
	unread unreadReports
}

func newOriginLoad(now time.Time) *originLoad {
	l := &originLoad{limiter: concurrency.NewLimiter(now), origin: pressure.NewOrigin(now), salt: rand.Uint64()}
	l.agent.limiter = l.limiter
	return l
}

// refresh lets go of what is believed no longer.
func (l *originLoad) refresh(now time.Time) {
	l.limiter.SetPressure(l.origin.Pressure(now))
	l.agent.forget(now)
}

// refresh does so for all of the site's origins.
func (s *site) refresh(now time.Time) {
	for _, l := range s.roster.Load().loads {
		l.refresh(now)
	}
}

// takeInLoad takes in what a response's header says of the origin's load.
func (a *attempt) takeInLoad(res *http.Response, now time.Time) {
	l := a.load
	if l == nil {
		return
	}
	r, ok, err := pressure.ReportOf(res.Header)
	switch {
	case ok:
		l.origin.Report(r, now)
		l.limiter.SetPressure(l.origin.Pressure(now))
	case err != nil:
		a.transport.site.tellUnread(l, a.member, err, now)
	}
	if res.StatusCode == http.StatusServiceUnavailable {
		a.backOff(res.Header, now)
	}
}

// backOff leaves the origin alone for as long as its 503 asks. One page may answer
// so all the time, and it must not take the origin from all others: so it takes
// other evidence of overload too, and clients that are bound to no origin. 429 is
// about one client.
func (a *attempt) backOff(h http.Header, now time.Time) {
	if a.transport.site.eject.Bound || !a.load.limiter.Engaged() {
		return
	}
	if d := parseRetryAfter(h, now); d > 0 {
		a.load.origin.Backoff(d, now)
	}
}

// unreadEvery is how often it is told, of each upstream, that its load reports
// cannot be read.
const unreadEvery = 10 * time.Minute

// unreadReports counts the load reports that could not be read.
type unreadReports struct {
	mu    sync.Mutex
	count int
	told  time.Time
}

// add counts one. It returns how many there are to tell of, mostly 0.
func (u *unreadReports) add(now time.Time) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count++
	if !u.told.IsZero() && now.Sub(u.told) < unreadEvery {
		return 0
	}
	n := u.count
	u.count, u.told = 0, now
	return n
}

func (s *site) tellUnread(l *originLoad, m *health.Member, err error, now time.Time) {
	n := l.unread.add(now)
	if n == 0 {
		return
	}
	s.app.health.logger.Warn("upstream's load reports cannot be read",
		zap.String("zone", clip(s.label())),
		zap.String("upstream", clip(m.Addr())),
		zap.Int("count", n),
		zap.String("error", clip(err.Error())),
		zap.String("hint", "The upstream sends the response header endpoint-load-metrics in another form than ORCA's, such as `cpu_utilization=0.3`. These reports count for nothing; requests are answered all the same."),
	)
}

// reluctance is why an origin is passed over as long as there is a better one.
type reluctance uint8

// From the least to the most.
const (
	welcome   reluctance = iota
	reluctant            // it asked to be left alone for a time, or to get a part only
	isFull               // it works on as many requests as it can
	isOut                // its agent says that it cannot be used
)

// isOut tells that the origin's agent says that it cannot be used.
func (s *site) isOut(l *originLoad) bool {
	said := l.agent.said.Load()
	return said != nil && !said.Usable() && s.steering() != nil
}

// leavesOut tells the same of an upstream.
func (s *site) leavesOut(u *reverseproxy.Upstream) bool {
	if s == nil || s.gate == nil {
		return false
	}
	r := s.roster.Load()
	m := r.fixed[u]
	if m == nil {
		m = s.shared.health.Lookup(u.String())
	}
	l := r.load[m]
	return l != nil && s.isOut(l)
}

// reluctanceOf tells how far this choice is to pass the origin over.
func (u *usable) reluctanceOf(l *originLoad) reluctance {
	if u.gate == nil || l == nil {
		return welcome
	}
	share := 1.0
	if said := l.agent.said.Load(); said != nil {
		if !said.Usable() {
			return isOut
		}
		share = said.Share()
	}
	switch {
	case u.gate.Keeps(l.limiter, u.class):
		return isFull
	case u.sticky: // a client's own upstream is changed for the best reasons only
		return welcome
	case l.origin.Waits(u.now) > 0, share < 1 && u.draw(l) >= share:
		return reluctant
	}
	return welcome
}

// draw is a number from 0 to 1 that stays the same for this choice and origin,
// which may be asked for more than once.
func (u *usable) draw(l *originLoad) float64 {
	if u.lot == 0 {
		u.lot = rand.Uint64() | 1
	}
	x := u.lot ^ l.salt
	x = (x ^ x>>33) * 0xff51afd7ed558ccd // MurmurHash3's last step
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return float64((x^x>>33)>>11) / (1 << 53)
}
