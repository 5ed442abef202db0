// SPDX-License-Identifier: Apache-2.0

// Package diagnose tells people what went wrong: the operator in a log line that
// says what to do (Hint) and that cannot become a flood (Burst), the visitor in
// one complete answer that names the side at fault (Judge, Negotiate, Render,
// ProxyStatus).
//
// It decides nothing: a request's fate is settled in failover, and what a fault
// is in health.
package diagnose
