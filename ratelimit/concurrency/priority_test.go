// SPDX-License-Identifier: Apache-2.0

// Who is shed at which pressure, and for how long.

package concurrency

import (
	"math"
	"testing"
	"time"
)

func TestShedsByPressure(t *testing.T) {
	for _, tc := range []struct {
		class    Class
		pressure float64
		want     float64 // share
	}{
		{Background, 0.45, 0}, {Background, 0.525, 0.5}, {Background, 0.6, 1},
		{Sheddable, 0.6, 0}, {Sheddable, 0.725, 0.5}, {Sheddable, 0.81, 1},
		{Default, 0.85, 0}, {Default, 0.925, 0.5}, {Default, 1, 1},
		{Critical, 1, 0},
	} {
		shed := 0
		for client := range uint64(10000) {
			if Sheds(tc.class, client, tc.pressure, epoch) {
				shed++
			}
		}
		if got := float64(shed) / 10000; math.Abs(got-tc.want) > 0.02 {
			t.Errorf("%v at %v: got %.3f, want %.2f", tc.class, tc.pressure, got, tc.want)
		}
	}
}

func TestClientIsInOrOutForAnHour(t *testing.T) {
	changed := 0
	for client := range uint64(1000) {
		in := Sheds(Default, client, 0.925, epoch)
		if Sheds(Default, client, 0.925, epoch.Add(59*time.Minute)) != in {
			t.Fatalf("client %d changed within the hour", client)
		}
		if Sheds(Default, client, 0.925, epoch.Add(time.Hour)) != in {
			changed++
		}
	}
	if changed < 400 || changed > 600 {
		t.Errorf("changed with the hour: got %d of 1000, want half", changed)
	}
}

func TestClassNames(t *testing.T) {
	for c := Background; c <= Critical; c++ {
		if got, ok := ParseClass(c.String()); !ok || got != c {
			t.Errorf("%v: got %v, %v", c, got, ok)
		}
	}
	if _, ok := ParseClass("urgent"); ok {
		t.Error("unknown class taken")
	}
}
