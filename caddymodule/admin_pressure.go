// SPDX-License-Identifier: Apache-2.0

// The admin API: how short this host is of something.

package caddymodule

import (
	"errors"
	"net/http"

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
	return answerJSON(w, pressureOf(reg.host.Sampler))
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
