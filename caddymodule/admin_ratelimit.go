// SPDX-License-Identifier: Apache-2.0

// The admin API: zones of limits, their budgets, who asks too much, and which
// addresses many people share.

package caddymodule

import (
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

const limitsPath = "/reset_guard/limits"

// maxListed is how many addresses of each kind a zone lists.
const maxListed = 20

// zoneStatus is a zone as the API shows it. Rates are per second, shares from 0
// to 1.
type zoneStatus struct {
	Zone     string  `json:"zone"`
	Pressure float64 `json:"pressure"`
	Rate     float64 `json:"rate"`
	Capacity float64 `json:"capacity"`
	Total    float64 `json:"total,omitempty"`

	Budgets   []budgetStatus   `json:"budgets"`
	Decisions []decisionStatus `json:"decisions"`
	Offenders []offenderStatus `json:"offenders"`
	Shared    []sharedStatus   `json:"shared"`
	Dominant  *dominantStatus  `json:"dominant,omitempty"`
}

// budgetStatus is what a handler that uses the zone has configured.
type budgetStatus struct {
	Mode      string  `json:"mode"`
	DryRun    bool    `json:"dry_run"`
	Client    float64 `json:"client,omitempty"`
	Burst     float64 `json:"burst,omitempty"`
	Base      float64 `json:"base,omitempty"`
	PerClient float64 `json:"per_client,omitempty"`
	Unproven  float64 `json:"unproven,omitempty"`
}

type decisionStatus struct {
	Class    string `json:"class"`
	Budget   string `json:"budget"`
	Decision string `json:"decision"`
	Count    uint64 `json:"count"`
}

type offenderStatus struct {
	Prefix  string `json:"prefix"`
	Refused uint64 `json:"refused"`
	Error   uint64 `json:"error"`
}

type sharedStatus struct {
	Prefix   string  `json:"prefix"`
	Users    int     `json:"users"`
	Proven   float64 `json:"proven"`
	Known    float64 `json:"known"`
	Unknown  float64 `json:"unknown"`
	FairRate float64 `json:"fair_rate"`
}

type dominantStatus struct {
	Prefix string  `json:"prefix"`
	Share  float64 `json:"share"`
}

// listLimits answers GET with all zones, or the one that is asked for.
func listLimits(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	q, err := queryOf(r, "zone")
	if err != nil {
		return err
	}
	list, now := []zoneStatus{}, time.Now()
	if reg := currentRegistry(); reg != nil {
		for _, z := range reg.rateZonesInUse() {
			if q["zone"] == "" || q["zone"] == z.name {
				list = append(list, z.status(now))
			}
		}
	}
	return answerJSON(w, list)
}

func (z *zoneInUse) status(now time.Time) zoneStatus {
	st := z.rates.Stats(maxListed, now)
	s := zoneStatus{
		Zone: z.name, Rate: round(st.Rate), Capacity: round(st.Capacity), Total: round(st.Total),
		Budgets: []budgetStatus{}, Decisions: []decisionStatus{}, Offenders: []offenderStatus{}, Shared: []sharedStatus{},
	}
	for _, l := range z.limiters {
		s.Pressure = max(s.Pressure, round(l.pressure(now)))
		if b := budgetOf(&l.policy); !slices.Contains(s.Budgets, b) {
			s.Budgets = append(s.Budgets, b)
		}
	}
	for _, c := range z.rates.Counts() {
		s.Decisions = append(s.Decisions, decisionStatus{c.Class.String(), c.Level.String(), c.Outcome.String(), c.N})
	}
	for _, o := range st.Offenders {
		s.Offenders = append(s.Offenders, offenderStatus{o.Prefix.String(), o.Refused, o.Error})
	}
	for _, a := range st.Shared {
		s.Shared = append(s.Shared, sharedStatus{
			Prefix: a.Prefix.String(), Users: int(math.Round(a.Users)),
			Proven: round(a.Proven), Known: round(a.Known), Unknown: round(a.Unknown), FairRate: round(a.FairRate),
		})
	}
	if d := st.Dominant; d != nil {
		s.Dominant = &dominantStatus{d.Prefix.String(), round(d.Share)}
	}
	return s
}

func budgetOf(p *ratelimit.Policy) budgetStatus {
	b := budgetStatus{Mode: modeAuto, DryRun: p.DryRun, Client: p.ClientRate, Burst: p.ClientBurst}
	if !p.Auto {
		b.Mode, b.Base, b.PerClient, b.Unproven = modeFixed, p.Base, p.PerClient, p.Unproven
	}
	return b
}
