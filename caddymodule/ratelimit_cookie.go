// SPDX-License-Identifier: Apache-2.0

// The cookie: read, kept from everybody else, and set where no shared cache keeps
// it.

package caddymodule

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// hostPrefix binds a cookie to this host and to TLS; browsers refuse it over
// plain HTTP.
const hostPrefix = "__Host-"

// cookieNames are the cookie's names over TLS and without it.
type cookieNames struct{ secure, plain string }

// namesOfCookie makes both of the one configured; "" is the default.
func namesOfCookie(name string) cookieNames {
	if name == "" {
		name = ratelimit.CookieName
	}
	return cookieNames{secure: name, plain: strings.TrimPrefix(name, hostPrefix)}
}

func (n cookieNames) of(secure bool) string {
	if secure {
		return n.secure
	}
	return n.plain
}

// strip takes our cookie out of a request, in place: neither upstreams nor logs
// that are written later have it.
func (v *visit) strip(header http.Header) {
	lines := header["Cookie"]
	if !v.issues || len(lines) == 0 {
		return
	}
	names, kept := v.limiter.cookie, lines[:0]
	for _, line := range lines {
		// Both: browsers send the plain one over TLS, too, and others what they like.
		line = ratelimit.StripCookie(line, names.plain)
		if names.secure != names.plain {
			line = ratelimit.StripCookie(line, names.secure)
		}
		if line != "" {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		header.Del("Cookie")
		return
	}
	header["Cookie"] = kept
}

// cachedSigner is the signer for a limiter's lifetime of cookies, made anew when
// the keys change.
type cachedSigner struct{ made atomic.Pointer[madeSigner] }

type madeSigner struct {
	ring *ratelimit.KeyRing
	*ratelimit.Signer
}

// signer is nil as long as there are no keys.
func (l *rateLimiter) tokenSigner() *ratelimit.Signer {
	ring := l.app.registry.keys.ring.Load()
	if ring == nil {
		return nil
	}
	if made := l.signer.made.Load(); made != nil && made.ring == ring {
		return made.Signer
	}
	signer, err := ratelimit.NewSigner(*ring, l.policy.CookieLifetime)
	if err != nil {
		return nil // a ring that is not valid is never stored
	}
	l.signer.made.Store(&madeSigner{ring, signer})
	return signer
}

// place is where the client shows its cookie.
func (v *visit) place() ratelimit.Place {
	return ratelimit.Place{Addr: v.request.Addr, Site: v.client.site, Secure: v.client.secure}
}

// findToken reads the cookie.
func (v *visit) findToken(r *http.Request) ratelimit.Token {
	lines := r.Header["Cookie"]
	if len(lines) == 0 {
		return ratelimit.Token{}
	}
	signer := v.limiter.tokenSigner()
	if signer == nil {
		return ratelimit.Token{}
	}
	token, err := signer.Find(lines, v.limiter.cookie.of(v.client.secure), v.place(), v.now)
	if err == ratelimit.ErrUnknownKey {
		v.limiter.app.registry.keys.refresh() // another instance may have a new one
	}
	return token
}

// offerCookie sets the cookie if one is due and the answer is one that no shared
// cache keeps.
func (v *visit) offerCookie(w http.ResponseWriter, status int) {
	signer := v.limiter.tokenSigner()
	if signer == nil {
		return
	}
	header := w.Header()
	private, how := mayCarryCookie(header, status, &v.client)
	if !private || changesCaching(w) {
		return
	}
	token, due := v.zone.Issue(&v.limiter.policy, &v.request, v.decision, v.pressure, v.now)
	if !due {
		return
	}
	if how != "" {
		header.Set("Cache-Control", how)
	}
	text := v.limiter.cookie.of(v.client.secure) + "=" + signer.Mint(token, v.place()) +
		"; Path=/; Max-Age=" + strconv.Itoa(int(v.limiter.policy.CookieLifetime/time.Second)) + "; HttpOnly; SameSite=Lax"
	if v.client.secure {
		text += "; Secure"
	}
	header.Add("Set-Cookie", text)
}

// dropForeignCookies takes cookies out of an answer that look like ours and are not: an
// origin with a guard of its own would replace, with each answer, what proves the client
// here.
func (v *visit) dropForeignCookies(header http.Header) {
	lines := header["Set-Cookie"]
	if !v.issues || len(lines) == 0 {
		return
	}
	name := v.limiter.cookie.of(v.client.secure)
	foreign := func(line string) bool {
		key, value, _ := strings.Cut(line, "=")
		value, _, _ = strings.Cut(value, ";")
		if strings.TrimSpace(key) != name || !ratelimit.IsToken(strings.TrimSpace(value)) {
			return false
		}
		signer := v.limiter.tokenSigner()
		if signer == nil {
			return true
		}
		_, err := signer.Verify(strings.TrimSpace(value), v.place(), v.now)
		return err != nil
	}
	if kept := slices.DeleteFunc(lines, foreign); len(kept) > 0 {
		header["Set-Cookie"] = kept
		return
	}
	header.Del("Set-Cookie")
}
