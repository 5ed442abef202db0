// SPDX-License-Identifier: Apache-2.0

// This file is the result as JSON. Its field names are for others' programs:
// they stay.

package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/resetguard/caddy-resetguard/faultinject"
)

// report is what a run came to.
type report struct {
	opts options
	rows []*row
}

// problems is what the guard did worse than it may; empty if all is well.
func (r *report) problems() []string {
	var found []string
	for _, row := range r.rows {
		found = append(found, row.problems()...)
	}
	return found
}

type jsonReport struct {
	Requests              int       `json:"requests"`
	Seed                  uint64    `json:"seed"`
	Probability           float64   `json:"probability"`
	ClientTimeout         string    `json:"client_timeout"`
	ResponseHeaderTimeout string    `json:"response_header_timeout"`
	Faults                []jsonRow `json:"faults"`
	Overall               *jsonRow  `json:"overall,omitempty"` // of all faults but none
	Problems              []string  `json:"problems"`
}

type jsonRow struct {
	Fault        faultinject.Fault `json:"fault"`
	Requests     int               `json:"requests"`
	ReverseProxy jsonResult        `json:"reverse_proxy"`
	ResetGuard   jsonResult        `json:"reset_guard"`
}

type jsonResult struct {
	Right      int            `json:"right"`
	HTTPErrors int            `json:"http_errors"`
	Broken     int            `json:"broken"`
	Twice      int            `json:"posts_executed_twice"`
	AddedP50   float64        `json:"added_latency_p50_seconds"`
	AddedP99   float64        `json:"added_latency_p99_seconds"`
	Reasons    map[string]int `json:"reasons"` // of what was not right
}

// writeJSON writes the report as one JSON object.
func (r *report) writeJSON(w io.Writer) error {
	out := jsonReport{
		Requests: r.opts.requests, Seed: r.opts.seed, Probability: r.opts.probability,
		ClientTimeout:         clientTimeout.String(),
		ResponseHeaderTimeout: headerTimeout.String(),
		Faults:                make([]jsonRow, 0, len(r.rows)),
		Problems:              append([]string{}, r.problems()...),
	}
	for _, row := range r.rows {
		out.Faults = append(out.Faults, row.json())
	}
	if sum := overall(r.rows); sum != nil {
		row := sum.json()
		out.Overall = &row
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

func (r *row) json() jsonRow {
	return jsonRow{Fault: r.fault, Requests: r.sent(), ReverseProxy: r.result(plain), ResetGuard: r.result(guarded)}
}

func (r *row) result(w way) jsonResult {
	t := &r.tally[w]
	res := jsonResult{
		Right: t.all.right, HTTPErrors: t.httpErrors, Broken: t.broken, Twice: t.twice,
		AddedP50: seconds(t.added(&r.tally[direct], 0.50)),
		AddedP99: seconds(t.added(&r.tally[direct], 0.99)),
		Reasons:  t.why,
	}
	if res.Reasons == nil {
		res.Reasons = map[string]int{}
	}
	return res
}

// seconds rounds to what was measured with any meaning.
func seconds(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }
