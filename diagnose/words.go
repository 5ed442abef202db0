// SPDX-License-Identifier: Apache-2.0

// The words for visitors: what happened, without a technical term and without
// anything that only the operator should know.

package diagnose

import (
	"net/http"

	"github.com/resetguard/caddy-resetguard/health"
)

// words tells a visitor what happened. "This server" and "the site's origin" are
// the names of the stations on the page.
func words(f health.Fault, status int) (title, detail string) {
	if f.Cause == health.Overloaded && f.Side == health.SideProxy {
		return "This server is very busy",
			"It has more to do than it can manage and could not pass the request on."
	}
	switch f.Cause {
	case health.ClientGone:
		return "The connection broke off",
			"The connection from your device ended before the request was complete."
	case health.LocalPorts, health.LocalFiles, health.LocalMemory:
		return "This server is very busy",
			"It has run short of room for a moment and could not pass the request on."
	case health.NoUpstream:
		return "The site is not available at the moment",
			"None of the machines behind this site can answer just now."
	case health.TLSExpired, health.TLSUntrusted, health.TLSName, health.TLSVersion, health.TLSHandshake:
		return "The site cannot be reached securely",
			"This server could not set up a secure connection to the site's origin."
	case health.Protocol:
		return "The site's answer was not readable",
			"The site's origin answered, but this server could make no sense of the answer."
	}
	switch status {
	case http.StatusServiceUnavailable:
		return "The site is very busy",
			"The site's origin has more to do than it can manage at the moment."
	case http.StatusGatewayTimeout:
		return timeoutWords(f)
	}
	return badGatewayWords(f)
}

func timeoutWords(f health.Fault) (title, detail string) {
	switch {
	case f.Cause == health.DNS:
		return "The site cannot be found at the moment",
			"This server asked for the address of the site's origin and got no answer in time."
	case f.Side == health.SideProxy:
		return "The request took too long",
			"The time that this server allows for it ran out before the site's origin had answered."
	case f.Phase == health.PhaseDial, f.Phase == health.PhaseTLS:
		return "The site took too long to answer",
			"This server could not connect to the site's origin in time."
	default:
		return "The site took too long to answer",
			"This server asked the site's origin, and no complete answer came in time."
	}
}

// badGatewayWords tells apart an origin that was never reached, one that broke
// off, and one that itself reported a fault.
func badGatewayWords(f health.Fault) (title, detail string) {
	switch {
	case f.Cause == health.Status:
		return "The site reported a fault",
			"The site's origin answered that it cannot handle the request at the moment."
	case f.Cause == health.DNS:
		return "The site cannot be found at the moment",
			"This server could not find out the address of the site's origin."
	case f.Cause == health.Refused, f.Cause == health.Unreachable,
		f.Phase == health.PhaseDial, f.Phase == health.PhaseTLS:
		return "The site cannot be reached",
			"This server could not connect to the site's origin."
	case f.Phase == health.PhaseHeaders, f.Phase == health.PhaseBody:
		return "The site's answer broke off",
			"The connection to the site's origin ended in the middle of the answer."
	default:
		return "The site gave no answer",
			"The connection to the site's origin ended before an answer came."
	}
}

// station is one of the three places between the visitor and the site, as the
// page shows them. State says in words what Mark and Class say in signs and
// colour.
type station struct {
	Name, Class, Mark, State string
}

// stations marks where the fault lies. What is beyond the fault is unknown, not
// well: nothing got there.
func stations(at health.Side) [3]station {
	well := station{Class: "ok", Mark: "✓", State: "Working"}
	bad := station{Class: "bad", Mark: "✕", State: "The fault is here"}
	unseen := station{Class: "na", Mark: "–", State: "No fault seen"}
	var s [3]station
	switch at {
	case health.SideClient:
		s = [3]station{bad, well, unseen}
	case health.SideProxy:
		s = [3]station{well, bad, unseen}
	case health.SideNetwork:
		s = [3]station{well, well, {Class: "way", Mark: "✕", State: "The fault is on the way here"}}
	default:
		s = [3]station{well, well, bad}
	}
	s[0].Name, s[1].Name, s[2].Name = "You", "This server", "The site's origin"
	return s
}

// place names the side in the middle of a sentence.
func place(at health.Side) string {
	switch at {
	case health.SideClient:
		return "on the way from you to this server"
	case health.SideProxy:
		return "at this server"
	case health.SideNetwork:
		return "between this server and the site's origin"
	default:
		return "at the site's origin"
	}
}
