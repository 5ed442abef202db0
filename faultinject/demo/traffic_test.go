// SPDX-License-Identifier: Apache-2.0

// Tests of the mix and order of requests.

package demo

import (
	"reflect"
	"testing"
)

func TestTrafficHasTheMix(t *testing.T) {
	for _, n := range []int{10, 60, 300} {
		got := make(map[string]int)
		for _, q := range traffic(1, n, answerSize) {
			name := q.method
			if q.key {
				name += "+key"
			}
			got[name]++
			if len(q.body) != map[string]int{"PUT": putSize, "POST": postSize, "POST+key": postSize}[name] {
				t.Errorf("%s has a body of %d bytes", name, len(q.body))
			}
		}
		want := map[string]int{"GET": 6 * n / 10, "HEAD": n / 10, "PUT": n / 10, "POST": n / 10, "POST+key": n / 10}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d requests: got %v, want %v", n, got, want)
		}
	}
}

func TestTrafficFollowsFromTheSeed(t *testing.T) {
	a := traffic(1, 100, answerSize)
	if !reflect.DeepEqual(a, traffic(1, 100, answerSize)) {
		t.Error("the same seed gave other requests")
	}
	if !reflect.DeepEqual(a[:37], traffic(1, 37, answerSize)) {
		t.Error("fewer requests are not the start of more")
	}
	if reflect.DeepEqual(a, traffic(2, 100, answerSize)) {
		t.Error("another seed gave the same requests")
	}
}

func TestRepeatable(t *testing.T) {
	for _, tc := range []struct {
		q    request
		want bool
	}{
		{request{method: "GET"}, true},
		{request{method: "HEAD"}, true},
		{request{method: "PUT"}, true},
		{request{method: "POST"}, false},
		{request{method: "POST", key: true}, true},
	} {
		if got := tc.q.repeatable(); got != tc.want {
			t.Errorf("%s, key %v: got %v, want %v", tc.q.method, tc.q.key, got, tc.want)
		}
	}
}
