// SPDX-License-Identifier: Apache-2.0

// The kernel's text files, well and badly formed.

package pressure

import (
	"math"
	"testing"
)

const (
	psiText     = "some avg10=12.34 avg60=74.31 avg300=75.55 total=4934079208\nfull avg10=100.00 avg60=0.00 avg300=0.00 total=0\n"
	netstatText = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPAbortOnMemory\nTcpExt: 1 22 333 4444\n" +
		"IpExt: InNoRoutes ListenDrops\nIpExt: 7 8\n"
)

func TestParsePSI(t *testing.T) {
	for _, c := range []struct {
		text, kind string
		want       float64
		ok         bool
	}{
		{psiText, "some", .1234, true},
		{psiText, "full", 1, true},
		{psiText, "none", 0, false},
		{"some avg10=7 total=1.5\n", "some", .07, true},
		{"some avg10=\n", "some", 0, false},
		{"some avg60=1\n", "some", 0, false},
		{"", "some", 0, false},
	} {
		if got, ok := psi([]byte(c.text), c.kind); !near(got, c.want) || ok != c.ok {
			t.Errorf("%q %s: got %v %v, want %v %v", c.text, c.kind, got, ok, c.want, c.ok)
		}
	}
}

func TestParsePaired(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"ok", netstatText, true},
		{"bad/empty", "", false},
		{"bad/no numbers", "TcpExt: ListenDrops TCPAbortOnMemory\n", false},
		{"bad/cut off", "TcpExt: A ListenDrops TCPAbortOnMemory\nTcpExt: 1 333\n", false},
		{"bad/no number", "TcpExt: A ListenDrops TCPAbortOnMemory\nTcpExt: 1 333 x\n", false},
	} {
		var got [2]uint64
		ok := paired([]byte(c.text), "TcpExt:", []string{"ListenDrops", "TCPAbortOnMemory"}, got[:])
		if ok != c.ok || ok && got != [2]uint64{333, 4444} {
			t.Errorf("%s: got %v %v", c.name, got, ok)
		}
	}
}

func TestParseNumbers(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "12\n": 12, "18446744073709551615": math.MaxUint64, "99999999999999999999999": math.MaxUint64} {
		if got, ok := parseUint([]byte(text)); got != want || !ok {
			t.Errorf("%q: got %v %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "max", "-1", " 1"} {
		if got, ok := parseUint([]byte(text)); ok {
			t.Errorf("%q: got %v, want none", text, got)
		}
	}
	if got, ok := named([]byte(" inuse 10 orphan 0 tw 7027 alloc 15 mem 3"), "tw"); got != 7027 || !ok {
		t.Errorf("sockstat: got %v %v", got, ok)
	}
	if got, ok := keyed([]byte("anon 5\nactive_file 7\nfile 9\n"), "file"); got != 9 || !ok {
		t.Errorf("memory.stat: got %v %v", got, ok)
	}
}

func FuzzKernelText(f *testing.F) {
	for _, text := range []string{psiText, netstatText, "TCP: inuse 10 orphan 0 tw 7027 alloc 15 mem 0\n", "max\n", "1\t2\t3"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, kind := range []string{"some", "full"} {
			if x, _ := psi(text, kind); !(x >= 0) || math.IsInf(x, 0) {
				t.Errorf("pressure is %v", x)
			}
		}
		var counters [2]uint64
		paired(text, "TcpExt:", []string{"ListenDrops", "TCPAbortOnMemory"}, counters[:])
		named(text, "tw")
		keyed(text, "file")
		parseUint(text)
	})
}

func TestQuantile(t *testing.T) {
	bounds := []float64{math.Inf(-1), 0, .001, .01, math.Inf(1)}
	for _, c := range []struct {
		name        string
		before, now []uint64
		want        float64
	}{
		{"too few", []uint64{0, 0, 0, 0}, []uint64{0, 0, 99, 0}, 0},
		{"one in a hundred late", []uint64{0, 5, 0, 0}, []uint64{0, 104, 1, 0}, .001},
		{"two in a hundred late", []uint64{0, 5, 0, 0}, []uint64{0, 103, 2, 0}, .01},
		{"beyond all bounds", []uint64{0, 0, 0, 0}, []uint64{0, 0, 0, 100}, .01},
	} {
		if got := quantileSince(c.before, c.now, bounds, .99); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
