// SPDX-License-Identifier: Apache-2.0

// Who asks: the client's address, its identity, and what it looks like.

package caddymodule

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// visitor is what cookies depend on, as the client said it: handlers behind this one
// may change the request.
type visitor struct {
	// secure tells that the client came over TLS, to this server or to a proxy
	// that is trusted.
	secure bool
	// navigates tells that somebody opens a page.
	navigates bool
	method    string
	// site is the host's name, without a port, as cookies know none.
	site string
}

// look finds out who asks. What a handler before this one has found is taken
// over, for it has taken the cookie out.
func (v *visit) look(r *http.Request) {
	q := &v.request
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	q.Addr, _ = netip.ParseAddr(ip)
	q.Addr = q.Addr.Unmap().WithZone("")
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && peer.Addr().Unmap().WithZone("") == q.Addr {
		q.Port = peer.Port() // otherwise it is a proxy's
	}
	v.client = visitor{secure: isSecure(r), navigates: isNavigation(r), method: r.Method, site: siteName(r.Host)}
	q.Look = lookOf(r)
	v.identify(r)
	for b := v.before; b != nil; b = b.before {
		if b.issues && b.limiter.cookie == v.limiter.cookie {
			q.Token = b.request.Token
			return
		}
	}
	if v.limiter.policy.CookieLifetime > 0 {
		v.issues = true
		q.Token = v.findToken(r)
	}
}

// siteName is a host's name without its port.
func siteName(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isSecure tells that the client's connection is one over TLS.
func isSecure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// lookSeed keys looks, so that nobody can choose whom to look like.
var lookSeed = maphash.MakeSeed()

// maxLook is how much of each field counts.
const maxLook = 256

// lookOf hashes what can be forged: it chooses among the bins of one pool, and
// is never an identity.
func lookOf(r *http.Request) uint64 {
	look := uint64(r.ProtoMajor)
	if t := r.TLS; t != nil {
		look |= uint64(t.Version)<<16 | uint64(t.CipherSuite)<<32 | uint64(t.CurveID)<<48
	}
	for _, field := range [...]string{"User-Agent", "Accept-Language", "Accept-Encoding"} {
		text := r.Header.Get(field)
		var state [16]byte
		binary.LittleEndian.PutUint64(state[:], look)
		binary.LittleEndian.PutUint64(state[8:], maphash.String(lookSeed, text[:min(len(text), maxLook)]))
		look = maphash.Bytes(lookSeed, state[:])
	}
	return look
}

// identitySource is a placeholder that says who a client is.
type identitySource struct {
	key string // without braces
	// checked tells that Caddy vouches for it.
	checked bool
	// certificate tells that Caddy does so only if it has verified the client's.
	certificate bool
}

// checkedBy are the placeholders that no client can fill in by itself.
// Variables are none: the directive vars fills them from anything.
var checkedBy = []string{"http.auth.user."}

const certificateBy = "http.request.tls.client."

func parseIdentity(text string) (identitySource, error) {
	key, ok := strings.CutPrefix(text, "{")
	if ok {
		key, ok = strings.CutSuffix(key, "}")
	}
	if !ok || key == "" || strings.ContainsAny(key, "{} ") {
		return identitySource{}, fmt.Errorf("identity: '%s' is not one placeholder, such as {http.auth.user.id}", clip(text))
	}
	if key == "http.vars.client_ip" || strings.HasPrefix(key, "http.request.remote") {
		return identitySource{}, fmt.Errorf("identity: %s is the address, which counts in any case: name what tells clients at one address apart", text)
	}
	s := identitySource{key: key, certificate: strings.HasPrefix(key, certificateBy)}
	for _, prefix := range checkedBy {
		s.checked = s.checked || strings.HasPrefix(key, prefix)
	}
	return s, nil
}

// maxIdentity is how much of an identity counts: what is longer is none, for its
// owner could make it as long as it likes.
const maxIdentity = 4 << 10

// identify asks the placeholders, in order.
func (v *visit) identify(r *http.Request) {
	if len(v.limiter.identity) == 0 {
		return
	}
	repl := replacerOf(r)
	if repl == nil {
		return
	}
	for _, source := range v.limiter.identity {
		text, ok := repl.GetString(source.key)
		if !ok || text == "" || len(text) > maxIdentity {
			continue
		}
		if source.checked || source.certificate && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			v.request.User = text
		} else {
			v.request.Claim = text
		}
		v.request.Scope, v.request.Source = v.client.site, source.key
		return
	}
}
