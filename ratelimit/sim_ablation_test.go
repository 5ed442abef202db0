// SPDX-License-Identifier: Apache-2.0

// Each mechanism left out in turn: that it earns its place.

package ratelimit

import (
	"strings"
	"testing"
)

// ablation is a scenario that gets worse without a mechanism: people lose at
// least so many percentage points, or attackers get so many times as much.
type ablation struct {
	without string
	off     mechanism
	row     string // the scenario's first word
	loses   group
	points  float64
	times   float64
}

func TestSimAblation(t *testing.T) {
	for _, a := range []ablation{
		{"proven apart from unproven", provenApart, "S2", provenPeople, 5, 0},
		{"fair share", fairShare, "S3", newcomers, 5, 0},
		{"tenure", tenureFirst, "S3b", provenPeople, 3, 0},
		{"bins", binning, "S1", attackers, 0, 10},
		{"bins", binning, "S1c", newcomers, 0, 2},
		{"charging the narrowest first", innerFirst, "S1", newcomers, 3, 0},
		{"bins by port", portBins, "S2p", attackers, 0, 2},
	} {
		t.Run(a.without+"/"+a.row, func(t *testing.T) {
			sc := scenarioNamed(t, a.row)
			with, without := simulate(sc, 1, 0), simulate(sc, 1, a.off)
			t.Logf("%-4s with all: %s   without %s: %s", a.row, with, a.without, without)
			if lost := with.score[a.loses].percent() - without.score[a.loses].percent(); a.loses != attackers && lost < a.points {
				t.Errorf("loss of group %d: got %.1f points, want at least %.1f", a.loses, lost, a.points)
			}
			if got := without.attackRate() / max(1, with.attackRate()); got < a.times {
				t.Errorf("attackers: got %.1f times as much, want at least %.1f", got, a.times)
			}
		})
	}
}

func scenarioNamed(t *testing.T, row string) scenario {
	t.Helper()
	for _, sc := range scenarios() {
		if first, _, _ := strings.Cut(sc.name, " "); first == row {
			return sc
		}
	}
	t.Fatalf("no scenario %q", row)
	return scenario{}
}
