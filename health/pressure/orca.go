// SPDX-License-Identifier: Apache-2.0

// What origins say about their load, in the header fields of ORCA.

package pressure

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// The header fields, in text and in JSON. They reach the client as everything else
// that an origin answers; header_down removes them.
const (
	orcaHeader     = "Endpoint-Load-Metrics"
	orcaHeaderJSON = "Endpoint-Load-Metrics-Json"
)

// Limits on what is read of a report, which an origin could make of any size.
const (
	maxReport  = 4 << 10
	maxMetrics = 64
)

// Report is an origin's load. What it did not tell is 0.
type Report struct {
	Application float64 // utilization as the application sees it, about 0 to 1
	CPU         float64
	Memory      float64
	RPS, EPS    float64 // requests and errors per second
}

// Utilization is the application's own figure, or else that of the processor.
func (r Report) Utilization() float64 {
	if r.Application > 0 {
		return r.Application
	}
	return r.CPU
}

var (
	errReportTooLong = fmt.Errorf("load report: longer than %d bytes or %d metrics", maxReport, maxMetrics)
	errReportBinary  = errors.New("load report: the binary form is not read")
)

// ReportOf reads the report in a response's header; ok is false if there is none
// that can be read. The binary form is skipped.
func ReportOf(h http.Header) (r Report, ok bool, err error) {
	if v := h[orcaHeader]; len(v) > 0 {
		r, err = ParseReport(v[0])
	} else if v := h[orcaHeaderJSON]; len(v) > 0 {
		r, err = parseJSONReport(v[0])
	} else {
		return Report{}, false, nil
	}
	if errors.Is(err, errReportBinary) {
		return Report{}, false, nil
	}
	return r, err == nil, err
}

// ParseReport reads a report in its text form, "cpu_utilization=0.3, eps=1", or
// in JSON, with or without the words TEXT and JSON before it. Metrics it does
// not know are left out; a number that is none, and a metric given twice, make
// all of it an error.
func ParseReport(text string) (Report, error) {
	text = strings.TrimSpace(text)
	kind, rest, _ := strings.Cut(text, " ")
	switch {
	case kind == "TEXT":
		return parseTextReport(rest)
	case kind == "JSON":
		return parseJSONReport(rest)
	case kind == "BIN":
		return Report{}, errReportBinary
	case strings.HasPrefix(text, "{"):
		return parseJSONReport(text)
	}
	return parseTextReport(text)
}

func parseTextReport(text string) (Report, error) {
	if len(text) > maxReport {
		return Report{}, errReportTooLong
	}
	var r Report
	var seen metricNames
	for pair := range strings.SplitSeq(text, ",") {
		i := strings.IndexAny(pair, "=:")
		if i < 0 {
			return Report{}, fmt.Errorf("load report: %q is not a name and a number", pair)
		}
		if err := r.set(&seen, strings.TrimSpace(pair[:i]), strings.TrimSpace(pair[i+1:])); err != nil {
			return Report{}, err
		}
	}
	return r, nil
}

// metricNames are those that a report has had so far.
type metricNames struct {
	names [maxMetrics]string
	n     int
}

func (m *metricNames) add(name string) error {
	if m.n == maxMetrics {
		return errReportTooLong
	}
	for _, other := range m.names[:m.n] {
		if other == name {
			return fmt.Errorf("load report: %s is given twice", name)
		}
	}
	m.names[m.n] = name
	m.n++
	return nil
}

// set takes over a metric, by its name in either form.
func (r *Report) set(seen *metricNames, name, value string) error {
	to := r.field(name)
	if to != nil {
		name = snakeCase(name)
	}
	if name == "" {
		return errors.New("load report: a metric has no name")
	}
	if err := seen.add(name); err != nil {
		return err
	}
	x, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return fmt.Errorf("load report: %s is %q: not a number", name, value)
	}
	if to == nil {
		return nil
	}
	if x < 0 {
		return fmt.Errorf("load report: %s is %v: less than 0", name, x)
	}
	*to = x
	return nil
}

// field is where a metric belongs; nil for those that are of no use here.
func (r *Report) field(name string) *float64 {
	switch name {
	case "application_utilization", "applicationUtilization":
		return &r.Application
	case "cpu_utilization", "cpuUtilization":
		return &r.CPU
	case "mem_utilization", "memUtilization":
		return &r.Memory
	case "rps_fractional", "rpsFractional":
		return &r.RPS
	case "eps":
		return &r.EPS
	}
	return nil
}

// snakeCase makes one name of the two that JSON allows.
func snakeCase(name string) string {
	if i := strings.IndexAny(name, "UF"); i > 0 {
		return name[:i] + "_" + strings.ToLower(name[i:])
	}
	return name
}

// parseJSONReport reads the JSON form. Objects within it, as namedMetrics, are
// left out, but what they contain is read as strictly.
func parseJSONReport(text string) (Report, error) {
	if len(text) > maxReport {
		return Report{}, errReportTooLong
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var r Report
	var seen metricNames
	if err := r.readReport(d, &seen); err != nil {
		return Report{}, err
	}
	if d.InputOffset() != int64(len(strings.TrimRight(text, " \t\r\n"))) {
		return Report{}, errors.New("load report: something follows the JSON object")
	}
	return r, nil
}

func (r *Report) readReport(d *json.Decoder, seen *metricNames) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("load report: reading JSON: %w", err)
	}
	if t != json.Delim('{') {
		return errors.New("load report: not a JSON object")
	}
	return r.readMembers(d, seen, "")
}

// readValue reads a number, also one in quotes as Protobuf's JSON has it, or one
// level of objects.
func (r *Report) readValue(d *json.Decoder, seen *metricNames, within, name string) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("load report: reading JSON: %w", err)
	}
	switch t := t.(type) {
	case json.Number:
		return r.set(seen, within+name, t.String())
	case string:
		return r.set(seen, within+name, t)
	case json.Delim:
		if t == '{' && within == "" {
			if err := seen.add(name); err != nil {
				return err
			}
			return r.readMembers(d, seen, name+".")
		}
	}
	return fmt.Errorf("load report: %s is not a number", within+name)
}

// readMembers reads what is left of an object.
func (r *Report) readMembers(d *json.Decoder, seen *metricNames, within string) error {
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("load report: reading JSON: %w", err)
		}
		if err := r.readValue(d, seen, within, name.(string)); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("load report: reading JSON: %w", err)
	}
	return nil
}
