// SPDX-License-Identifier: Apache-2.0

// The directive reset_guard: everything that reverse_proxy takes, and its own
// options.

package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/resetguard/caddy-resetguard/failover"
)

func init() {
	httpcaddyfile.RegisterDirective("reset_guard", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("reset_guard", httpcaddyfile.Before, "reverse_proxy")
}

// parseDirective sets up the guard around a stock reverse proxy. Syntax:
//
//	reset_guard [<matcher>] [<upstreams...>] {
//	    # every option of reverse_proxy
//
//	    failover off | {
//	        attempts        <number>
//	        within          <duration>
//	        replay          <memory> [<file>] | off
//	        hold            <size> [<duration>] | off
//	        resume          on | verify | off
//	        stall           <duration> | off
//	        idempotency_key <fields...> | off
//	        retry_status    <codes...> | off
//	        budget          <percent>% [<count>] | off
//	    }
//	    eject off | {
//	        base       <duration>
//	        max        <duration>
//	        max_share  <percent>%
//	        slow_start <duration> | off
//	    }
//	    overload off | {
//	        mode     observe | auto | enforce
//	        queue    <duration> | off
//	        priority <class> <matcher>
//	    }
//	    rate_limit auto | off | {
//	        # see RateLimit
//	    }
//	    error_page on | off
//	    zone       <name>
//	}
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcherSet, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	var tokens []caddyfile.Token
	for h.Next() {
		tokens = append(tokens, h.Token())
	}
	own, rest := takeOptions(tokens)

	var opts options
	for _, segment := range own {
		if err := opts.unmarshal(caddyfile.NewDispenser(segment), h); err != nil {
			return nil, err
		}
	}
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(caddyfile.NewDispenser(rest)); err != nil {
		return nil, explainUnknown(err)
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	if err := opts.assemble(proxy); err != nil {
		at := caddyfile.NewDispenser(tokens)
		at.Next() // what is wrong lies between lines: name the directive's own
		return nil, at.WrapErr(err)
	}
	return routeOf(h, matcherSet, &opts.handler, proxy)
}

// routeOf makes one route with the guard's handler before the proxy's.
func routeOf(h httpcaddyfile.Helper, matcherSet caddy.ModuleMap, guard *Handler, proxy *reverseproxy.Handler) ([]httpcaddyfile.ConfigValue, error) {
	values := h.NewRoute(matcherSet, guard)
	if len(values) != 1 {
		return nil, h.Err("making the route of reset_guard")
	}
	route, ok := values[0].Value.(caddyhttp.Route)
	if !ok {
		return nil, h.Errf("making the route of reset_guard: got a %T", values[0].Value)
	}
	var warnings []caddyconfig.Warning
	route.HandlersRaw = append(route.HandlersRaw, caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", &warnings))
	if len(warnings) > 0 {
		return nil, h.Err(warnings[0].Message)
	}
	values[0].Value = route
	return values, nil
}

// ownOptions are the options that reverse_proxy does not know.
var ownOptions = [...]string{"failover", "eject", "overload", "rate_limit", "error_page", "zone"}

// takeOptions separates the guard's own options from those of reverse_proxy. An
// option stands first on a line of the outermost block; its value goes to the
// end of the line or of the block that opens there.
func takeOptions(tokens []caddyfile.Token) (own [][]caddyfile.Token, rest []caddyfile.Token) {
	depth := 0
	for i := 0; i < len(tokens); i++ {
		if depth == 1 && startsLine(tokens, i) && isOwn(tokens[i].Text) {
			end := segmentEnd(tokens, i)
			own = append(own, tokens[i:end])
			i = end - 1
			continue
		}
		depth += nesting(tokens, i)
		rest = append(rest, tokens[i])
	}
	return own, rest
}

func isOwn(name string) bool {
	for _, o := range ownOptions {
		if o == name {
			return true
		}
	}
	return false
}

// startsLine tells whether token i is the first on its line, by Caddy's own rule:
// snippets have line numbers of their own, and one that is imported twice has the
// same ones twice.
func startsLine(tokens []caddyfile.Token, i int) bool {
	if i == 0 {
		return true
	}
	d := caddyfile.NewDispenser(tokens[i-1 : i+1])
	return d.Next() && d.NextLine()
}

// nesting is by how much token i changes the depth of blocks: an opening brace
// ends its line, a closing one begins it; all others are values.
func nesting(tokens []caddyfile.Token, i int) int {
	tok := tokens[i]
	if tok.Quoted() {
		return 0
	}
	switch {
	case tok.Text == "{" && (i+1 == len(tokens) || startsLine(tokens, i+1)):
		return 1
	case tok.Text == "}" && startsLine(tokens, i):
		return -1
	}
	return 0
}

// segmentEnd is the index behind the option that begins at i.
func segmentEnd(tokens []caddyfile.Token, i int) int {
	depth := nesting(tokens, i)
	for i++; i < len(tokens); i++ {
		if depth == 0 && startsLine(tokens, i) {
			return i
		}
		depth += nesting(tokens, i)
	}
	return i
}

// explainUnknown adds to reverse_proxy's error what else is allowed here, or
// where an option of ours belongs.
func explainUnknown(err error) error {
	if _, opt, unknown := strings.Cut(err.Error(), "unrecognized subdirective"); unknown {
		opt, _, _ = strings.Cut(strings.TrimSpace(opt), ",")
		if block := blockOf(opt); block != "" {
			return fmt.Errorf("%w: %s belongs into the block of %s: %s { %s ... }", err, opt, block, block, opt)
		}
		return fmt.Errorf("%w: reset_guard takes %s and every option of reverse_proxy", err, strings.Join(ownOptions[:], ", "))
	}
	return err
}

// blockOf names the option of ours in whose block opt belongs; "" if none.
func blockOf(opt string) string {
	if _, known := failoverValues[opt]; known {
		return "failover"
	}
	if _, known := ejectValues[opt]; known {
		return "eject"
	}
	return ""
}

// options are the guard's own options in a Caddyfile.
type options struct {
	handler  Handler
	failover *Failover
	eject    *Eject
	overload *Overload
	zone     string
}

// unmarshal reads one option.
func (o *options) unmarshal(d *caddyfile.Dispenser, h httpcaddyfile.Helper) error {
	d.Next()
	switch d.Val() {
	case "failover":
		if o.failover != nil {
			return d.Err("failover already specified")
		}
		o.failover = new(Failover)
		return o.failover.unmarshalCaddyfile(d)
	case "eject":
		if o.eject != nil {
			return d.Err("eject already specified")
		}
		o.eject = new(Eject)
		return o.eject.unmarshalCaddyfile(d)
	case "overload":
		if o.overload != nil {
			return d.Err("overload already specified")
		}
		o.overload = new(Overload)
		return o.overload.unmarshalCaddyfile(d, h)
	case "rate_limit":
		if o.handler.RateLimit != nil {
			return d.Err("rate_limit already specified")
		}
		o.handler.RateLimit = new(RateLimit)
		return o.handler.RateLimit.unmarshalCaddyfile(d, "rate_limit")
	case "zone":
		if o.zone != "" {
			return d.Err("zone already specified")
		}
		return unmarshalZone(d, &o.zone)
	case "error_page":
		if o.handler.ErrorPage != nil {
			return d.Err("error_page already specified")
		}
		return unmarshalSwitch(d, &o.handler.ErrorPage)
	}
	return d.Errf("unknown option '%s'", d.Val())
}

// unmarshalZone reads the name of a zone.
func unmarshalZone(d *caddyfile.Dispenser, dst *string) error {
	args := d.RemainingArgs()
	if len(args) != 1 || args[0] == "" || len(args[0]) > maxZone {
		return d.Errf("zone takes one name of 1 to %d bytes", maxZone)
	}
	if hasPlaceholder(args[0]) {
		return d.Errf("zone takes a fixed name, not '%s': placeholders are not filled in there", args[0])
	}
	*dst = args[0]
	if d.NextBlock(0) {
		return d.Err("zone takes no block")
	}
	return nil
}

func hasPlaceholder(name string) bool {
	open := strings.IndexByte(name, '{')
	return open >= 0 && strings.IndexByte(name[open:], '}') > 0
}

// maxZone bounds a name that stands in every line of the log.
const maxZone = 64

// unmarshalSwitch reads "on" or "off".
func unmarshalSwitch(d *caddyfile.Dispenser, dst **bool) error {
	opt, args := d.Val(), d.RemainingArgs()
	if len(args) != 1 || args[0] != "on" && args[0] != "off" {
		return d.Errf("%s takes 'on' or 'off'", opt)
	}
	on := args[0] == "on"
	*dst = &on
	if d.NextBlock(0) {
		return d.Errf("%s takes no block", opt)
	}
	return nil
}

// assemble wraps the proxy's transport and selection policy and lets it retry
// what the guard decides to send again.
func (o *options) assemble(proxy *reverseproxy.Handler) error {
	o.handler.ProxyStatusName = proxy.ProxyStatusName
	f, err := o.reconcile(proxy)
	if err != nil {
		return err
	}
	transport := Transport{TransportRaw: proxy.TransportRaw, Failover: f}
	if isModule(proxy.TransportRaw, "protocol") {
		return fmt.Errorf("transport reset_guard: the directive reset_guard wraps the transport by itself; name the one to wrap, such as http, or use the directive reverse_proxy")
	}
	statuses := f.policy().RetryStatus
	transport.RetryMatchesStatus = countsFailures(proxy) && (f == nil || !f.Off) && len(statuses) > 0
	proxy.TransportRaw = caddyconfig.JSONModuleObject(transport, "protocol", "reset_guard", nil)

	lb := proxy.LoadBalancing
	if lb == nil {
		lb = new(reverseproxy.LoadBalancing)
		proxy.LoadBalancing = lb
	}
	if isModule(lb.SelectionPolicyRaw, "policy") {
		return fmt.Errorf("lb_policy reset_guard: the directive reset_guard wraps the policy by itself; name the one to wrap, such as round_robin, or use the directive reverse_proxy")
	}
	lb.SelectionPolicyRaw = caddyconfig.JSONModuleObject(Selection{SelectionPolicyRaw: lb.SelectionPolicyRaw, Eject: o.eject, Overload: o.overload, Zone: o.zone}, "policy", "reset_guard", nil)
	if f != nil && f.Off {
		return nil
	}
	lb.RetryMatchRaw = append(lb.RetryMatchRaw, caddy.ModuleMap{"reset_guard": json.RawMessage("{}")})
	if transport.RetryMatchesStatus {
		// Caddy looks at such a set when a response is there, and does not count
		// what the set matches as the upstream's failure.
		lb.RetryMatchRaw = append(lb.RetryMatchRaw, caddy.ModuleMap{
			"reset_guard": json.RawMessage("{}"),
			"expression":  caddyconfig.JSON(statusIsIn(statuses), nil),
		})
	}
	if lb.Retries == 0 && lb.TryDuration == 0 {
		lb.Retries = f.policy().Attempts - 1 + failover.FreeAttempts
	}
	return nil
}

// statusIsIn is an expression of Caddy's that reads the response's status.
func statusIsIn(statuses []int) string {
	return "{http.reverse_proxy.status_code} in " + strings.ReplaceAll(fmt.Sprint(statuses), " ", ", ")
}

// countsFailures tells whether the operator has Caddy count failed requests.
func countsFailures(proxy *reverseproxy.Handler) bool {
	return proxy.HealthChecks != nil && proxy.HealthChecks.Passive != nil && proxy.HealthChecks.Passive.FailDuration != 0
}

// reconcile makes the guard's limits agree with the proxy's own, which mean the
// same: whoever has set lb_retries or lb_try_duration goes on having that.
func (o *options) reconcile(proxy *reverseproxy.Handler) (*Failover, error) {
	f := o.failover
	lb := proxy.LoadBalancing
	if proxy.FlushInterval < 0 {
		if f == nil {
			f = new(Failover)
		}
		if f.Hold != nil && f.Hold.Size > 0 {
			return nil, fmt.Errorf("hold and flush_interval -1 contradict each other: a response that is flushed at once cannot be held; remove one of them")
		}
		f.Hold = new(Hold)
	}
	if lb == nil || lb.Retries == 0 && lb.TryDuration == 0 || f != nil && f.Off {
		return f, nil
	}
	if f == nil {
		f = new(Failover)
	}
	if lb.Retries != 0 {
		if f.Attempts != 0 {
			return nil, fmt.Errorf("attempts and lb_retries mean the same (lb_retries %d is attempts %d): remove one of them", lb.Retries, lb.Retries+1)
		}
		f.Attempts = lb.Retries + 1
		if lb.Retries < 0 || f.Attempts > failover.MaxAttempts {
			f.Attempts = failover.Unlimited // the proxy itself counts to lb_retries
		}
	}
	if lb.TryDuration != 0 {
		if f.Within != 0 {
			return nil, fmt.Errorf("within and lb_try_duration mean the same: remove one of them")
		}
		f.Within = min(lb.TryDuration, caddy.Duration(failover.MaxWithin))
		if lb.TryDuration < 0 { // without limit
			f.Within = caddy.Duration(failover.MaxWithin)
		}
		if f.Attempts == 0 {
			f.Attempts = failover.Unlimited
		}
	}
	return f, nil
}

// isModule tells whether raw is a module of ours.
func isModule(raw json.RawMessage, key string) bool {
	var m map[string]any
	return json.Unmarshal(raw, &m) == nil && m[key] == "reset_guard"
}
