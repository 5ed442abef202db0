// SPDX-License-Identifier: Apache-2.0

// What clients are told of limits: their budget, and why they were refused.

package caddymodule

import (
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/resetguard/caddy-resetguard/diagnose"
	"github.com/resetguard/caddy-resetguard/ratelimit"
)

// policyField is the RateLimit-Policy field: a client's nominal budget.
func policyField(p *ratelimit.Policy) string {
	window := max(1, int(math.Round(p.ClientBurst/p.ClientRate)))
	return `"client";q=` + strconv.Itoa(int(p.ClientBurst)) + ";w=" + strconv.Itoa(window)
}

// lowPart of its budget is what a client is told of: before that it has nothing
// to do about it.
const lowPart = 4

// tell writes the fields of an admitted request, when little is left.
func (l *rateLimiter) tell(header http.Header, d *ratelimit.Decision) {
	if l.policyField == "" || d.Limit == 0 || !d.Allowed || lowPart*d.Remaining >= d.Limit {
		return
	}
	more := max(1, int(math.Ceil(d.Window.Seconds()/float64(d.Limit))))
	l.write(header, "client", d.Limit, d.Remaining, more)
}

// write writes the fields of draft-ietf-httpapi-ratelimit-headers, and those of
// its early versions that clients may know.
func (l *rateLimiter) write(header http.Header, policy string, limit, remaining, seconds int) {
	header.Set("RateLimit", `"`+policy+`";r=`+strconv.Itoa(remaining)+";t="+strconv.Itoa(seconds))
	if policy == "client" && l.policyField != "" {
		header.Set("RateLimit-Policy", l.policyField)
	}
	if l.headers != headersLegacy {
		return
	}
	if limit > 0 {
		header.Set("RateLimit-Limit", strconv.Itoa(limit))
	}
	header.Set("RateLimit-Remaining", strconv.Itoa(remaining))
	header.Set("RateLimit-Reset", strconv.Itoa(seconds))
}

// errOverLimit ends a request that is refused where Caddy's error handling is to
// answer.
var errOverLimit = errors.New("over the limit for this client or its network, or too much to do for all")

// refuse answers a request that may not pass.
func (v *visit) refuse(w http.ResponseWriter, r *http.Request) error {
	d, l, header := &v.decision, v.limiter, w.Header()
	id := v.trace(r)
	seconds := int(math.Ceil(d.RetryAfter.Seconds()))
	header.Set("Retry-After", strconv.Itoa(seconds))
	l.app.spareConnection(w, r)
	if l.headers != headersOff {
		// What its network has left would tell a client about its neighbours.
		limit := 0
		if d.PolicyName() == "client" {
			limit = d.Limit
		}
		l.write(header, d.PolicyName(), limit, 0, seconds)
	}
	herr := caddyhttp.HandlerError{StatusCode: d.Status(), Err: errOverLimit}
	header.Set("Cache-Control", "no-store")
	if v.leftToCaddy(r, herr) {
		v.strip(r.Header) // pages for errors may come from an origin
		return caddyhttp.Error(d.Status(), errOverLimit)
	}
	var body []byte
	if !l.errors {
		var contentType string
		contentType, body = diagnose.RenderRefusal(diagnose.Negotiate(r.Header.Values("Accept")), diagnose.Refusal{
			Status: d.Status(), Type: d.Problem(), Policy: d.PolicyName(), RetryAfter: d.RetryAfter, Client: d.Level == ratelimit.LevelClient, RequestID: id,
		})
		header.Set("Content-Type", contentType)
		header.Add("Vary", "Accept")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("X-Content-Type-Options", "nosniff")
	uploads := uploadsMore(r, 0) && !expectsContinue(r)
	if uploads {
		// Otherwise net/http reads the upload before it sends the header.
		_ = http.NewResponseController(w).EnableFullDuplex()
		header.Set("Connection", "close")
	}
	w.WriteHeader(d.Status())
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that is gone needs no answer
	}
	if uploads {
		_ = http.NewResponseController(w).Flush()
		readOn(w, refusedDrainTime, func() error {
			_, err := io.CopyN(io.Discard, r.Body, refusedDrainBytes)
			return err
		})
	}
	return nil
}

// leftToCaddy tells that Caddy's error handling is to answer. Without error routes it
// would log each refusal of 500 and above as an error, just when there are most.
func (v *visit) leftToCaddy(r *http.Request, err caddyhttp.HandlerError) bool {
	if r.Context().Value(caddyhttp.ErrorCtxKey) != nil {
		return false // an error in an error route is handled by nobody
	}
	return operatorHandles(r, err) || v.limiter.errors && err.StatusCode < http.StatusInternalServerError
}

// What a refused client may still upload: less than others, as refusing must be
// cheaper than serving.
const (
	refusedDrainBytes = 4 << 20
	refusedDrainTime  = 2 * time.Second
)
