// SPDX-License-Identifier: Apache-2.0

// Tests of sums and quantiles.

package demo

import (
	"reflect"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[len(hundred)-1-i] = time.Duration(i + 1)
	}
	for _, tc := range []struct {
		name   string
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		{"none", nil, 0.5, 0},
		{"one", []time.Duration{7}, 0.99, 7},
		{"lower of two", []time.Duration{9, 5}, 0.5, 5},
		{"middle of three", []time.Duration{9, 1, 5}, 0.5, 5},
		{"minimum", []time.Duration{9, 1, 5}, 0, 1},
		{"maximum", []time.Duration{9, 1, 5}, 1, 9},
		{"p50 of a hundred", hundred, 0.5, 50},
		{"p99 of a hundred", hundred, 0.99, 99},
		{"p99 of few is the maximum", hundred[:20], 0.99, 100},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("quantile sorts its caller's values")
	}
}

func TestTally(t *testing.T) {
	get, post := request{method: "GET"}, request{method: "POST"}
	keyed := request{method: "POST", key: true}
	var a, b tally
	a.add(get, sample{right, "", 1})
	a.add(get, sample{broken, "reset", 2})
	a.add(post, sample{httpError, "status 502", 3})
	b.add(keyed, sample{broken, whyWrong, 4})
	b.add(get, sample{broken, "reset", 5})
	b.twice = 1
	a.merge(&b)

	want := tally{
		all: share{1, 5}, gets: share{1, 3}, repeatable: share{1, 4}, plainPosts: share{0, 1},
		httpErrors: 1, broken: 3, wrong: 1, twice: 1,
		why:  map[string]int{"reset": 2, "status 502": 1, whyWrong: 1},
		took: []time.Duration{1, 2, 3, 4, 5},
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("got  %+v\nwant %+v", a, want)
	}
	if got := a.added(&tally{took: []time.Duration{1}}, 0.5); got != 2 {
		t.Errorf("added: got %d, want 2", got)
	}
}
