// SPDX-License-Identifier: Apache-2.0

// The retry matcher: the guard's decision, as Caddy's proxy asks for it.

package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() { caddy.RegisterModule(MatchRetry{}) }

// MatchRetry matches a request that the `reset_guard` transport has decided to
// send again. It belongs into `lb_retry_match` and matches nothing elsewhere.
type MatchRetry struct{}

// CaddyModule returns the Caddy module information.
func (MatchRetry) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.reset_guard",
		New: func() caddy.Module { return new(MatchRetry) },
	}
}

// UnmarshalCaddyfile sets up the matcher, which takes no options. Syntax:
//
//	lb_retry_match {
//	    reset_guard
//	}
func (MatchRetry) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.Errf("the reset_guard matcher takes no options, not '%s'", d.Val())
		}
		if d.NextBlock(0) {
			return d.Err("the reset_guard matcher takes no options")
		}
	}
	return nil
}

// MatchWithError tells whether the latest decision was to try again.
func (MatchRetry) MatchWithError(r *http.Request) (bool, error) {
	ex := exchangeOf(r.Context())
	return ex != nil && ex.next.Retry(), nil
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = MatchRetry{}
	_ caddyfile.Unmarshaler             = MatchRetry{}
)
