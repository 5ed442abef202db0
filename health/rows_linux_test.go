// SPDX-License-Identifier: Apache-2.0

// The rows of HEALTH.md's table against the cases that produce them. Linux can
// produce all of them.

package health_test

import (
	"slices"
	"testing"
)

// tableRows are the rows of the table in HEALTH.md section 3.3, in its order,
// by their cause class or, where that does not tell two rows apart, by a name.
var tableRows = []string{
	"connect_refused",
	"connect_timeout",
	"own_deadline", // dial time-out with the request's context done
	"connect_reset",
	"route",
	"ephemeral_ports",
	"out_of_files", // EMFILE, ENFILE, ENOBUFS, ENOMEM
	"dns_nx",
	"dns_fail",
	"tls_cert",
	"tls_plaintext",
	"tls_alert",
	"tls_handshake_reset", // or eof
	"tls_timeout",
	"accept_close",
	"stale_conn",
	"stale_or_crash",
	"fin_no_response",
	"rst_after_write",
	"first_event", // ErrClosed by a write after the reader saw a reset
	"bad_response",
	"response_timeout",
	"body_reset",
	"body_truncated",
	"undetectable", // close-delimited body cut by FIN
	"client_abort",
	"h2_refused",
	"h2_calm",
	"h2_stream_reset",
	"h2_opaque", // "cannot retry err"
	"h2_drain",
	"h2_conn_lost",
	"h2_dead_path",
	"gateway_status",
	"pushback",
	"app_error",
}

func TestEveryRowIsProduced(t *testing.T) {
	cases := slices.Concat(
		dialCases, dialLinuxCases, shortageCases, dnsCases, tlsCases, reusedCases,
		exchangeCases, clientCases, statusCases, allFlavours(), allFramerCases(),
	)
	produced := make(map[string]int)
	names := make(map[string]bool)
	for _, c := range cases {
		produced[c.row]++
		if name := c.row + "/" + c.name; names[name] {
			t.Errorf("two cases are named %q", name)
		} else {
			names[name] = true
		}
	}
	for _, row := range tableRows {
		if produced[row] == 0 {
			t.Errorf("no case produces the row %q", row)
		}
		delete(produced, row)
	}
	for row, n := range produced {
		t.Errorf("%d cases are of the row %q, which the table does not have", n, row)
	}
}
