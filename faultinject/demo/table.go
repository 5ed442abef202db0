// SPDX-License-Identifier: Apache-2.0

// This file is the result as a table for people.

package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// writeTable writes the table, what its columns mean, and what was wrong.
func (r *report) writeTable(w io.Writer) error {
	grid := [][]string{
		{"", "", "", "HTTP", "", "POSTs", "added", "added"},
		{"fault", "proxy", "right", "error", "broken", "twice", "p50", "p99"},
	}
	var short []string
	for _, row := range r.rows {
		grid = append(grid, row.cells(plain), row.cells(guarded))
		if row.sent() < r.opts.requests {
			short = append(short, fmt.Sprintf("%s %d", row.fault, row.sent()))
		}
	}
	if sum := overall(r.rows); sum != nil {
		grid = append(grid, nil, sum.cells(plain), sum.cells(guarded))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests to each proxy for each fault: 60 %% GET, and 10 %% each of HEAD, PUT\n"+
		"(64 KiB), POST, and POST with Idempotency-Key. Seed %d.\n\n", r.opts.requests, r.opts.seed)
	render(&b, grid)
	b.WriteString("\n" + r.legend())
	if len(short) > 0 {
		fmt.Fprintf(&b, "The time was up before all requests were sent: %s.\n", strings.Join(short, ", "))
	}
	for _, p := range r.problems() {
		fmt.Fprintf(&b, "PROBLEM %s.\n", p)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// cells are a line of the table. The fault is told once for both proxies.
func (r *row) cells(w way) []string {
	t := &r.tally[w]
	name := ""
	if w == plain {
		name = string(r.fault)
	}
	return []string{
		name, w.String(),
		percent(t.all.right, t.all.sent), percent(t.httpErrors, t.all.sent), percent(t.broken, t.all.sent),
		fmt.Sprint(t.twice),
		milliseconds(t.added(&r.tally[direct], 0.50)), milliseconds(t.added(&r.tally[direct], 0.99)),
	}
}

func (r *report) legend() string {
	return fmt.Sprintf(`Both proxies got the same requests while one of three origins had the fault
in %.0f %% of all cases; answers were checked to the last byte. A "large body"
is %d KiB to each GET, with an ETag, and breaks off in the middle. "HTTP
error" is a complete 4xx or 5xx; "broken" is an answer that was reset, cut
short, wrong, or not complete within %v (response_header_timeout is %v in
both, so that stalls compare); "added" is the wait in ms, for errors as well,
less that of the same requests sent to a healthy origin directly, at the same
quantile. A POST without a key must not be sent again once an origin may have
acted on it: reset_guard answers it with an error, and "POSTs twice" must be 0.
`, r.opts.probability*100, largeSize>>10, clientTimeout, headerTimeout)
}

// render aligns columns: the first two to the left, figures to the right. A line
// without cells is a rule.
func render(b *strings.Builder, grid [][]string) {
	const textColumns = 2
	widths := make([]int, len(grid[0]))
	for _, cells := range grid {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, cells := range grid {
		if cells == nil {
			cells = rules(widths)
		}
		var line strings.Builder
		for i, cell := range cells {
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < textColumns {
				line.WriteString(cell + fill + "  ")
			} else {
				line.WriteString(fill + cell + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func rules(widths []int) []string {
	cells := make([]string, len(widths))
	for i, width := range widths {
		cells[i] = strings.Repeat("-", width)
	}
	return cells
}

// percent never rounds up to 100 or down to 0: one in a thousand is to be seen.
func percent(n, of int) string {
	if of == 0 {
		return "-"
	}
	tenths := (n*1000 + of/2) / of
	switch {
	case n > 0 && tenths == 0:
		tenths = 1
	case n < of && tenths == 1000:
		tenths = 999
	}
	return fmt.Sprintf("%d.%d%%", tenths/10, tenths%10)
}

// milliseconds shows about three digits.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	digits := 2
	switch abs := max(ms, -ms); {
	case abs >= 99.95:
		digits = 0
	case abs >= 9.995:
		digits = 1
	}
	return fmt.Sprintf("%+.*f", digits, ms)
}
