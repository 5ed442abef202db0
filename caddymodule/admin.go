// SPDX-License-Identifier: Apache-2.0

// The admin API: what is known of upstreams, and an operator's orders to them.

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/health"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI answers under /reset_guard/ on Caddy's admin endpoint. It has no state:
// each call looks at what the running configurations use.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.reset_guard",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

const upstreamsPath = "/reset_guard/upstreams"

// Routes implements caddy.AdminRouter.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: upstreamsPath, Handler: caddy.AdminHandlerFunc(listUpstreams)},
		{Pattern: limitsPath, Handler: caddy.AdminHandlerFunc(listLimits)},
		{Pattern: pressurePath, Handler: caddy.AdminHandlerFunc(tellPressure)},
		{Pattern: upstreamsPath + "/eject", Handler: orderHandler(ejectOrder)},
		{Pattern: upstreamsPath + "/drain", Handler: orderHandler(drainOrder)},
		{Pattern: upstreamsPath + "/restore", Handler: orderHandler(restoreOrder)},
	}
}

// upstreamStatus is an upstream as the API shows it. Times are RFC 3339 in UTC,
// durations seconds, shares and rates from 0 to 1.
type upstreamStatus struct {
	Zone      string `json:"zone"`
	PoolFault bool   `json:"pool_fault"`
	Upstream  string `json:"upstream"`

	State  string    `json:"state"`
	Manual bool      `json:"manual"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	Times  int       `json:"times"`

	Requests    int     `json:"requests"`
	FailureRate float64 `json:"failure_rate"`
	Failing     float64 `json:"failing"`
	Score       float64 `json:"score"`
	SlowScore   float64 `json:"slow_score"`

	Latency  float64 `json:"latency_seconds"`
	Median   float64 `json:"median_seconds"`
	InFlight int64   `json:"in_flight"`
	Share    float64 `json:"share"`

	// Missing if connections may be idle for any time.
	IdleLimit *float64 `json:"idle_limit_seconds,omitempty"`

	// Nothing of these is known where overload is off.
	Limit    int  `json:"limit,omitempty"`
	Taken    int  `json:"taken"`
	Engaged  bool `json:"engaged"`
	Enforced bool `json:"enforced"`
}

func statusOf(p *poolInUse, st health.Standing, now time.Time) upstreamStatus {
	s := upstreamStatus{
		Zone: p.zone, PoolFault: p.health.Faulty(now), Upstream: st.Addr,
		State: st.State.String(), Manual: st.Manual, Since: inUTC(st.Since), Until: inUTC(st.Until), Times: st.Level,
		Requests: st.Requests, FailureRate: round(st.FailureRate), Failing: round(st.Failing), Score: round(st.Score), SlowScore: round(st.SlowScore),
		Latency: seconds(st.Latency), Median: seconds(st.Median), InFlight: st.InFlight, Share: round(st.Share),
	}
	if l, enforced := p.limitOf(st.Addr); l != nil {
		s.Limit, s.Taken, s.Engaged, s.Enforced = l.Limit(), l.InFlight(), l.Engaged(), enforced
	}
	if st.LimitsIdle {
		limit := seconds(st.IdleLimit)
		s.IdleLimit = &limit
	}
	if st.State != health.Healthy {
		s.Reason = string(st.Reason)
	}
	return s
}

// inUTC keeps milliseconds, as much as a person can use.
func inUTC(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}

// seconds keeps microseconds.
func seconds(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }

// filter is which upstreams a call is about; "" is all of them.
type filter struct{ zone, upstream string }

// find lists the upstreams that the filter lets pass, with their pools.
func (f filter) find(now time.Time) (found []foundUpstream) {
	r := currentRegistry()
	if r == nil {
		return nil
	}
	for _, p := range r.inUse() {
		if f.zone != "" && !p.goesBy(f.zone) {
			continue
		}
		for _, u := range p.upstreams(now) {
			if f.upstream == "" || f.upstream == u.Addr {
				found = append(found, foundUpstream{p, u})
			}
		}
	}
	return found
}

// schemePorts are the schemes that an upstream may be configured with, and their
// ports. Caddy dials, and we know, the address without.
var schemePorts = map[string]string{"http": "80", "https": "443", "h2c": "80"}

// addressIn is the address of an upstream that is given with its scheme.
func addressIn(upstream string) string {
	scheme, addr, found := strings.Cut(upstream, "://")
	port, known := schemePorts[strings.ToLower(scheme)]
	if !found || !known {
		return upstream
	}
	addr = strings.TrimSuffix(addr, "/")
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return net.JoinHostPort(strings.Trim(addr, "[]"), port)
	}
	return addr
}

type foundUpstream struct {
	pool *poolInUse
	upstreamInUse
}

// statuses is never nil: an empty list is not null.
func statuses(found []foundUpstream, now time.Time) []upstreamStatus {
	list := make([]upstreamStatus, len(found))
	for i, f := range found {
		list[i] = statusOf(f.pool, f.Standing, now)
	}
	return list
}

// listUpstreams answers GET with all upstreams, or those that are asked for.
func listUpstreams(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	q, err := queryOf(r, "zone", "upstream")
	if err != nil {
		return err
	}
	now := time.Now()
	return answerJSON(w, statuses(filter{q["zone"], addressIn(q["upstream"])}.find(now), now))
}

func answerJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // who has asked may be gone
	return nil
}

func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return refuse(http.StatusMethodNotAllowed, "method %s is not allowed here: use %s", clip(r.Method), methods[0])
}

func refuse(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// queryOf returns the query parameters. Any but those named, and any given twice,
// is an error: a misspelt filter must not mean "all".
func queryOf(r *http.Request, names ...string) (map[string]string, error) {
	values := make(map[string]string)
	for name, given := range r.URL.Query() {
		switch {
		case !slices.Contains(names, name):
			return nil, refuse(http.StatusBadRequest, "unknown parameter '%s': allowed are %s", clip(name), strings.Join(names, ", "))
		case len(given) > 1:
			return nil, refuse(http.StatusBadRequest, "parameter %s given %d times", name, len(given))
		}
		values[name] = given[0]
	}
	return values, nil
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
