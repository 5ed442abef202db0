// SPDX-License-Identifier: Apache-2.0

// One or two sentences for the operator at three in the morning: what a fault
// most probably is, and what to look at.

package diagnose

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/resetguard/caddy-resetguard/health"
)

// Hint explains a fault. Every text is a constant of at most 240 characters, so
// that equal faults read equal and a log line stays a line. Words in backquotes
// can be typed: Caddyfile options of reverse_proxy, kernel settings, commands.
func Hint(f health.Fault) string {
	if f.Side == health.SideClient && f.Cause != health.Protocol && f.Cause != health.ClientGone {
		return "The visitor stopped in the middle of an upload, and the origin, or `read_timeout` in `transport http`, did not wait any longer. Nothing is to be done; if there are many, look at the network in front of this host."
	}
	switch f.Cause {
	case health.DNS:
		return hintDNS(f)
	case health.Refused:
		return "Nothing listens at the origin's address. Is the application running, and does it listen on this address and port, not only on 127.0.0.1 or inside another container?"
	case health.Unreachable:
		return "There is no route to the origin: its host, container network or VPN is down, or a firewall rejects the connection. Try `ip route get` and `ping` with its address on this host."
	case health.Timeout:
		return hintTimeout(f)
	case health.Reset, health.Closed, health.GoAway, health.RefusedStream:
		return hintBroken(f)
	case health.TLSExpired, health.TLSUntrusted, health.TLSName, health.TLSVersion, health.TLSHandshake:
		return hintTLS(f)
	case health.Protocol:
		return hintProtocol(f)
	case health.Overloaded:
		if f.Phase == health.PhaseDial { // it was not sent
			if f.Side == health.SideProxy {
				return "Refused to spare this host, which is short of something: `curl localhost:2019/reset_guard/pressure` names it. Free it, or add capacity here; the origins are not at fault."
			}
			return "Refused here: all origins in use have as many requests as their limits allow. `curl localhost:2019/reset_guard/upstreams` shows the limits and what is out. Look for what slows the origins, or add capacity."
		}
		return "The origin says that it has too much to do. Add capacity, or look for what loads it (slow queries, a crawler, a job)."
	case health.Status:
		return hintStatus(f)
	case health.Mismatch:
		return "Asked for the rest of another origin's answer, this one did not have it; the error says what differs. Make releases, ETags and lengths the same on all origins, and let them all answer requests for ranges."
	case health.LocalPorts, health.LocalFiles, health.LocalMemory, health.NoUpstream:
		return hintLocal(f)
	case health.ClientGone:
		return hintClient(f)
	default:
		return "This error is not known to the guard. Look into the origin's log at this time, and please report the error's text."
	}
}

func hintDNS(f health.Fault) string {
	if isTimeout(f.Err) {
		return "The DNS resolver does not answer in time. Check /etc/resolv.conf and the resolver itself, or name others with `resolvers` in `transport http`."
	}
	return "The origin's name does not resolve. Check its spelling and its DNS record with `dig`, and /etc/resolv.conf; the name of a container or service vanishes when that stops."
}

func hintTimeout(f health.Fault) string {
	switch {
	case f.Side == health.SideProxy:
		return "The time allowed for the whole request ran out before the origin had answered. The limit is this server's own: another handler in front of the proxy sets it. Raise it if the origin may take so long."
	case f.Side == health.SideNetwork && f.Phase != health.PhaseDial:
		return "The origin's host stopped acknowledging packets: it crashed or lost its network, or the path to it broke. Try `ping` with its address; look at its console, and at firewalls that forget connections."
	}
	switch f.Phase {
	case health.PhaseDial:
		return "The origin's host does not answer connection attempts: it is down or overloaded, or a firewall drops the packets. The limit is `dial_timeout` in `transport http`."
	case health.PhaseTLS:
		return "The origin took the connection but did not finish the TLS handshake: it is overloaded, hung, or does not speak TLS on this port. The limit is `tls_timeout` in `transport http`, or else `stall`."
	case health.PhaseWrite:
		return "The origin stopped reading the request: the application hangs or is overloaded, or the network path loses large packets (MTU). Look at the application's threads or workers. The limit is `stall`."
	case health.PhaseHeaders, health.PhaseBody:
		return "The answer began and then stalled: the application hangs in the middle of it, or the network path is broken. The limit is `stall`, or `read_timeout` in `transport http`."
	default:
		return "The origin took the request but did not answer in time: look for slow queries, locks or busy workers. If it may take so long, raise `stall` or `response_header_timeout`."
	}
}

// hintBroken is for connections that ended too early, in whatever way.
func hintBroken(f health.Fault) string {
	if f.Phase == health.PhaseStale {
		return "The origin closed an idle connection just as it was used again. Let it keep idle connections longer than the proxy does (Node.js: 5 s by default), or set `keepalive` in `transport http` below its limit."
	}
	switch f.Cause {
	case health.GoAway:
		return "The origin is closing its HTTP/2 connections: usually a restart, a deployment or its limit of connection age or requests. If it happens all the time, raise that limit."
	case health.RefusedStream:
		return "The origin refused the request before working on it: it has reached its limit of concurrent HTTP/2 streams or is shutting down. Raise the limit or add capacity."
	}
	switch f.Phase {
	case health.PhaseDial:
		return "The origin's host broke off the new connection: its listen queue is full, or a firewall or load balancer in front of it has nowhere to send it. Check these, and that the application accepts connections."
	case health.PhaseTLS:
		return "The connection ended within the TLS handshake: the port may not speak TLS (then remove https://), or the origin wants another name (`tls_server_name`). Its TLS log tells."
	case health.PhaseWrite:
		return "The origin broke off while the request was being sent: it refuses so large an upload, or it crashed or restarted. Check its body size limit and its log."
	case health.PhaseBody:
		return "The answer broke off in the middle: the application crashed or was killed (OOM killer: `dmesg -T`; worker timeout), or stated a wrong Content-Length. Look into its log at this time."
	default:
		return "The connection ended before an answer: the application crashed, was killed (OOM killer: `dmesg -T`; worker timeout) or restarted. Look into its log at this time."
	}
}

func hintTLS(f health.Fault) string {
	switch f.Cause {
	case health.TLSExpired:
		return "The origin's certificate has expired or is not valid yet. Renew it; if it looks valid, check the clocks of both hosts."
	case health.TLSUntrusted:
		return "The origin's certificate comes from an authority that this host does not trust. Name the authority: `transport http { tls_trust_pool file /path/to/ca.pem }`."
	case health.TLSName:
		return "The origin's certificate is for another name. Give the name that it carries with `tls_server_name` in `transport http`, or issue a certificate for the name in use."
	case health.TLSVersion:
		return "No TLS version or cipher in common: the origin offers only TLS below 1.2 or is set too strictly. It may also want a client certificate (`tls_client_auth`). Compare with `openssl s_client -connect`."
	}
	switch {
	case speaksPlainly(f.Err):
		return "The origin speaks plain HTTP on that port, not TLS. Remove https:// (or `tls`) from this upstream, or give the port on which the origin speaks TLS."
	case isAlert(f.Err):
		return "The origin itself broke off the TLS handshake. It may demand a client certificate (`tls_client_auth`) or another name (`tls_server_name` in `transport http`); its log tells."
	default:
		return "The TLS handshake failed. Does this port speak TLS at all (if not, remove https://)? Try `openssl s_client -connect` with the origin's address, and read its TLS log."
	}
}

// speaksPlainly tells that the origin answered the handshake with something that
// is not TLS. http.Client would reword the error; a transport does not.
func speaksPlainly(err error) bool {
	var notTLS tls.RecordHeaderError
	return errors.As(err, &notTLS) || errors.Is(err, http.ErrSchemeMismatch)
}

// How net/http quotes the first bytes of an answer that is no HTTP/1: a TLS
// alert, and an HTTP/2 SETTINGS frame.
const (
	quotedAlert    = `malformed HTTP response "\x15\x03`
	quotedSettings = `malformed HTTP response "\x00\x00`
)

func hintProtocol(f health.Fault) string {
	if f.Side == health.SideClient {
		return "The request cannot be sent to any origin: `header_up` or `rewrite` puts something into it, most probably of the visitor's choice, that HTTP does not allow. The error names the place."
	}
	text := ""
	if f.Err != nil {
		text = f.Err.Error()
	}
	switch {
	case strings.Contains(text, quotedAlert):
		return "The origin speaks TLS on that port. Write https:// before this upstream."
	case strings.Contains(text, quotedSettings):
		return "The origin speaks only HTTP/2 on that port. Write h2c:// before this upstream."
	case f.Phase == health.PhaseBody:
		return "The origin's answer breaks HTTP's rules in its body (chunks, length, encoding). Look for code or a proxy at the origin that writes Content-Length or chunks itself."
	default:
		return "What listens at the origin's address does not answer in valid HTTP. Check the port and the scheme (http://, https://, h2c://), and what else may listen there."
	}
}

func hintStatus(f health.Fault) string {
	if f.StatusCode == http.StatusServiceUnavailable {
		return "The origin itself answered 503: it is starting, in maintenance, or has no free worker. Look into its log."
	}
	return "The origin itself answered with a gateway error: it is a proxy, and what lies behind it failed. Look into the log of the origin and of the application behind it."
}

func hintLocal(f health.Fault) string {
	switch f.Cause {
	case health.LocalPorts:
		return "This host has no free local port towards the origin. Widen `net.ipv4.ip_local_port_range` and keep more connections alive (`keepalive_idle_conns_per_host` in `transport http`); `ss -s` shows TIME-WAIT."
	case health.LocalFiles:
		return "Caddy has no file descriptor left. Raise LimitNOFILE with `systemctl edit caddy` (or `ulimit -n`), and look at what holds them: `ls -l /proc/PID/fd`."
	case health.LocalMemory:
		return "The kernel has no memory left for sockets. Check `free -m`, the memory limit of the container or unit, and `net.ipv4.tcp_mem`."
	}
	if f.Side == health.SideProxy {
		return "Operators have taken out all origins: `curl localhost:2019/reset_guard/upstreams` lists them, `curl -X POST 'localhost:2019/reset_guard/upstreams/restore?upstream=ADDRESS'` restores one."
	}
	return "No origin was available. `curl localhost:2019/reset_guard/upstreams` lists orders; others are marked down (`health_uri`, `max_fails`: `/reverse_proxy/upstreams`), full (`unhealthy_request_count`), or `dynamic` found none (see above)."
}

// LongWait is how long a client must have waited for an origin in vain until its
// leaving says more of the origin than of the client. People give up a page after
// about ten seconds (Nielsen, Usability Engineering, 1993).
const LongWait = 10 * time.Second

// Silent tells that a client has left because the origin was silent for long.
func Silent(f health.Fault) bool {
	return f.Cause == health.ClientGone && f.Phase != health.PhaseBody && f.Elapsed >= LongWait
}

func hintClient(f health.Fault) string {
	switch {
	case f.Phase == health.PhaseBody:
		return "The visitor left or lost the network. Nothing is to be done; if there are many, look at the network in front of this host."
	case Silent(f):
		return "The origin was silent for as long as the visitor waited: it hangs, or the network path to it is broken. So that others are tried in time, set `stall`, or `response_header_timeout` in `transport http`, below `within` (5s by default)."
	default:
		return "The visitor left before the origin answered. One such case is normal; if there are many, look for slow answers."
	}
}
