// SPDX-License-Identifier: Apache-2.0

// The admin API: how short this host is of something, and what is known of the
// upstreams' load.

package caddymodule

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/health/pressure"
)

const pressurePath = "/reset_guard/pressure"

var errNothingGuarded = errors.New("nothing is guarded by the running configuration")

// pressureStatus is this host's pressure as the API shows it.
type pressureStatus struct {
	Pressure float64         `json:"pressure"`
	Level    string          `json:"level"`
	Resource string          `json:"resource,omitempty"`
	Readings []readingStatus `json:"readings"`
	Sources  []sourceStatus  `json:"sources"`

	Upstreams []loadStatus `json:"upstreams"`
}

// loadStatus is what is known of one upstream's load.
type loadStatus struct {
	Zone     string `json:"zone"`
	Upstream string `json:"upstream"`

	Limit    int  `json:"limit"`
	InFlight int  `json:"in_flight"`
	Engaged  bool `json:"engaged"`

	Utilization *float64     `json:"utilization,omitempty"` // nil: no report lately
	WaitsUntil  time.Time    `json:"waits_until,omitzero"`
	Agent       *agentStatus `json:"agent,omitempty"` // nil: none is asked
}

type agentStatus struct {
	Service string  `json:"service,omitempty"`
	Running string  `json:"running,omitempty"`
	Why     string  `json:"why,omitempty"`
	Weight  float64 `json:"weight"`
	Max     int     `json:"max,omitempty"`
	Silent  bool    `json:"silent"`
}

type readingStatus struct {
	Resource string  `json:"resource"`
	Value    float64 `json:"value"`
	Pressure float64 `json:"pressure"`
}

type sourceStatus struct {
	Source       string   `json:"source"`
	Availability string   `json:"availability"`
	Resources    []string `json:"resources"`
	Error        string   `json:"error,omitempty"`
}

// tellPressure answers GET with what the last sample was.
func tellPressure(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	if len(r.URL.Query()) > 0 {
		return refuse(http.StatusBadRequest, "%s takes no parameters", pressurePath)
	}
	reg := currentRegistry()
	if reg == nil {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errNothingGuarded}
	}
	status := pressureOf(reg.host.Sampler)
	status.Upstreams = loadsOf(reg, time.Now())
	return answerJSON(w, status)
}

// loadsOf lists the upstreams of the running configurations, but for those of
// which nothing is limited.
func loadsOf(reg *registry, now time.Time) []loadStatus {
	list := []loadStatus{}
	for _, p := range reg.inUse() {
		for _, u := range p.upstreams(now) {
			if l := p.limiters.known(u.Addr); l != nil {
				list = append(list, loadOf(p.zone, u.Addr, l, now))
			}
		}
	}
	return list
}

func loadOf(zone, upstream string, l *originLoad, now time.Time) loadStatus {
	s := loadStatus{
		Zone: zone, Upstream: upstream,
		Limit: l.limiter.Limit(), InFlight: l.limiter.InFlight(), Engaged: l.limiter.Engaged(),
	}
	if u, ok := l.origin.Utilization(now); ok {
		u = round(u)
		s.Utilization = &u
	}
	if d := l.origin.Waits(now); d > 0 {
		s.WaitsUntil = inUTC(now.Add(d))
	}
	if silent, watched := l.agent.silent(); watched {
		said := l.agent.state()
		s.Agent = &agentStatus{
			Service: said.Service.String(), Running: said.Running.String(), Why: said.Why,
			Weight: round(said.Share()), Max: said.MaxConns, Silent: silent,
		}
	}
	return s
}

func pressureOf(h *pressure.Sampler) pressureStatus {
	st := h.State()
	s := pressureStatus{Pressure: round(st.P), Level: st.Level.String(), Readings: []readingStatus{}, Sources: []sourceStatus{}}
	if st.Resource != pressure.None {
		s.Resource = st.Resource.String()
	}
	for _, r := range h.Readings() {
		s.Readings = append(s.Readings, readingStatus{r.Resource.String(), round(r.Value), round(r.Pressure)})
	}
	for _, src := range h.Sources() {
		one := sourceStatus{Source: src.Source, Availability: src.Availability.String(), Resources: []string{}}
		for _, r := range src.Resources {
			one.Resources = append(one.Resources, r.String())
		}
		if src.Err != nil {
			one.Error = clip(src.Err.Error())
		}
		s.Sources = append(s.Sources, one)
	}
	return s
}
