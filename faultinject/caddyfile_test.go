// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parse reads one directive as the Caddyfile adapter would.
func parse(in string) (*Handler, error) {
	toks, err := caddyfile.Tokenize([]byte(in), "Testfile")
	if err != nil {
		return nil, err
	}
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(caddyfile.NewDispenser(toks))
}

func TestUnmarshalCaddyfile(t *testing.T) {
	for _, row := range []struct {
		name, in, json, err string
	}{
		{"ok/kind alone", "fault garbage", `{"kind":"garbage"}`, ""},
		{"ok/short probability", "fault reset_in_body 0.6", `{"kind":"reset_in_body","probability":0.6}`, ""},
		{"ok/never", "fault reset_in_body 0", `{"kind":"reset_in_body","probability":0}`, ""},
		{
			"ok/body", "fault close_in_upload {\n probability 0.6\n seed 1\n after 1KiB\n}",
			`{"kind":"close_in_upload","probability":0.6,"seed":1,"after":1024}`, "",
		},
		{"ok/stall", "fault stall_in_headers 1 {\n for 2s\n}", `{"kind":"stall_in_headers","probability":1,"for":2000000000}`, ""},
		{"ok/status", "fault status {\n status 418\n retry_after 2s\n}", `{"kind":"status","status":418,"retry_after":2000000000}`, ""},
		{"ok/none", "fault none", `{"kind":"none"}`, ""},

		{"bad/no kind", "fault", "", "wrong argument count or unexpected line ending after 'fault', at Testfile:1"},
		{"bad/kind", "fault slow", "", `fault "slow" is unknown: use one of none, reset_after_header, reset_in_upload, close_in_upload, ` +
			`reset_after_request, close_after_request, reset_in_headers, close_in_headers, reset_in_body, close_in_body, garbage, bad_header, ` +
			`stall_before_headers, stall_in_headers, stall_in_body, status, status_429, status_500, status_502, status_503, status_504, at Testfile:1`},
		{"bad/not a handler's", "fault goaway", "", `fault "goaway" cannot be made by a handler: use one of none, reset_after_header,`},
		{"bad/not a handler's either", "fault reset_idle", "", `fault "reset_idle" cannot be made by a handler`},
		{"bad/probability", "fault garbage 60%", "", `fault garbage: reading probability: strconv.ParseFloat: parsing "60%": invalid syntax, at Testfile:1`},
		{"bad/probability over 1", "fault garbage {\n\n probability 60\n}", "", "fault garbage: probability 60 is not between 0 and 1, at Testfile:3"},
		{"bad/probability twice", "fault garbage 1 {\n probability 1\n}", "", "fault garbage: probability is already set: set it once, at Testfile:2"},
		{"bad/too many arguments", "fault garbage 1 2", "", "wrong argument count or unexpected line ending after '2', at Testfile:1"},
		{"bad/repeated", "fault garbage {\n seed 1\n seed 1\n}", "", "fault garbage: seed is already set: set it once, at Testfile:3"},
		{"bad/unknown", "fault garbage {\n after_all 1\n}", "", `fault garbage: option "after_all" is unknown: use probability, seed, after, for, status or retry_after, at Testfile:2`},
		{"bad/no value", "fault garbage {\n seed\n}", "", "wrong argument count or unexpected line ending after 'seed', at Testfile:2"},
		{"bad/two values", "fault garbage {\n seed 1 2\n}", "", "wrong argument count or unexpected line ending after"},
		{"bad/seed", "fault garbage {\n seed -1\n}", "", "fault garbage: reading seed: strconv.ParseUint"},
		{"bad/size", "fault reset_in_body {\n after much\n}", "", "fault reset_in_body: reading after: strconv.ParseFloat"},
		{"bad/no size", "fault reset_in_body {\n after 0\n}", "", "fault reset_in_body: reading after: 0 is not a size from 1 byte to 8 EiB: leave it out for the default, at Testfile:2"},
		{"bad/after", "fault garbage {\n after 1KiB\n}", "", "fault garbage: after has no effect: it is for reset_in_upload, close_in_upload, reset_in_body, close_in_body, stall_in_body, at Testfile:2"},
		{"bad/for", "fault garbage {\n for 2s\n}", "", "fault garbage: for has no effect: it is for stall_before_headers, stall_in_headers, stall_in_body, at Testfile:2"},
		{"bad/duration", "fault stall_in_body {\n for long\n}", "", "fault stall_in_body: reading for: "},
		{"bad/no duration", "fault stall_in_body {\n for 0s\n}", "", "fault stall_in_body: reading for: 0s is not more than nothing: leave it out for the default, at Testfile:2"},
		{"bad/status", "fault status {\n status 99\n}", "", `fault status: reading status: fault "status": status code 99 cannot be sent: use 200 to 599, at Testfile:2`},
		{"bad/status of another", "fault status_503 {\n status 503\n}", "", "fault status_503: status has no effect: it is for status, at Testfile:2"},
		{"bad/no status", "fault status {\n seed 1\n}", "", "fault status: no status code: set status to 200 to 599, at Testfile:3"},
		{"bad/retry_after", "fault garbage {\n retry_after 2s\n}", "", "fault garbage: retry_after has no effect: it is for status, status_429, status_500, status_502, status_503, status_504, at Testfile:2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, err := parse(row.in)
			if row.err != "" {
				if err == nil || !strings.Contains(err.Error(), row.err) {
					t.Errorf("got %v, want %q", err, row.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(h); string(got) != row.json {
				t.Errorf("got %s, want %s", got, row.json)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for _, row := range []struct {
		name, json, want string
	}{
		{"bad/no kind", `{}`, "no fault: set kind to one of none, reset_after_header"},
		{"bad/kind", `{"kind":"tls_expired"}`, `fault "tls_expired" cannot be made by a handler`},
		{"bad/negative", `{"kind":"stall_in_body","for":-1}`, "a value is negative"},
		{"bad/for", `{"kind":"garbage","for":1}`, "for has no effect"},
		{"bad/status", `{"kind":"status","status":1}`, "status code 1 cannot be sent"},
		{"bad/no status", `{"kind":"status"}`, "no status code: set status to 200 to 599"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var h Handler
			if err := json.Unmarshal([]byte(row.json), &h); err != nil {
				t.Fatal(err)
			}
			if err := h.Validate(); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestDirectiveOrder(t *testing.T) {
	adapter := caddyconfig.GetAdapter("caddyfile")
	out, _, err := adapter.Adapt([]byte(":1234 {\n respond late\n handle /a {\n  respond early\n }\n fault garbage\n}"), map[string]any{"filename": "Testfile"})
	if err != nil {
		t.Fatal(err)
	}
	fault, handle, respond := bytes.Index(out, []byte(`"fault"`)), bytes.Index(out, []byte("early")), bytes.Index(out, []byte("late"))
	if fault < 0 || fault > handle || handle > respond {
		t.Errorf("got %s, want fault, handle, respond", out)
	}
}

func FuzzUnmarshalCaddyfile(f *testing.F) {
	f.Add("fault reset_in_body 0.6")
	f.Add("fault close_in_upload {\n\tprobability 0.6\n\tseed 1\n\tafter 1KiB\n}")
	f.Add("fault stall_in_body {\n\tfor 2s\n\tafter 9EB\n}")
	f.Add("fault status {\n\tstatus 503\n\tretry_after 1d\n}")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := parse(in)
		if err != nil {
			return // refusing is fine; panicking or hanging is not
		}
		if err := h.Validate(); err != nil {
			t.Fatalf("accepted from the Caddyfile and refused later: %v", err)
		}
		a, err := json.Marshal(h)
		if err != nil {
			t.Fatalf("writing JSON: %v", err)
		}
		var again Handler
		if err := json.Unmarshal(a, &again); err != nil {
			t.Fatalf("own JSON refused: %v", err)
		}
		if b, _ := json.Marshal(&again); !bytes.Equal(a, b) {
			t.Errorf("round trip: got %s, want %s", b, a)
		}
	})
}
