// SPDX-License-Identifier: Apache-2.0

// An operator's orders through the admin API: eject, drain, restore.

package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/resetguard/caddy-resetguard/health"
)

// maxOrderBody is far more than an order needs.
const maxOrderBody = 64 << 10

// order is the body of a call, or its query parameters.
type order struct {
	Upstream string    `json:"upstream"`
	Zone     string    `json:"zone"`
	For      *orderFor `json:"for"` // nil: until restored
}

// orderFor is a duration of which an error reads the same in a body and in a query.
type orderFor time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (f *orderFor) UnmarshalJSON(raw []byte) error {
	if (*caddy.Duration)(f).UnmarshalJSON(raw) != nil {
		return badFor(strings.Trim(string(raw), `"`))
	}
	return nil
}

func badFor(given string) error {
	return refuse(http.StatusBadRequest, "for: '%s' is not a duration, such as 10m", clip(given))
}

// long is how long the order holds; 0 until the next one.
func (o *order) long() time.Duration {
	if o.For == nil {
		return 0
	}
	return time.Duration(*o.For)
}

// orderKind is what can be ordered.
type orderKind struct {
	name   string
	params []string
	do     func(v *health.View, m *health.Member, o *order, now time.Time) []health.Transition
}

var (
	ejectOrder = orderKind{"eject", []string{"upstream", "zone", "for"},
		func(v *health.View, m *health.Member, o *order, now time.Time) []health.Transition {
			return v.Eject(m, o.long(), now)
		}}
	drainOrder = orderKind{"drain", []string{"upstream", "zone"},
		func(v *health.View, m *health.Member, _ *order, now time.Time) []health.Transition {
			return v.Drain(m, now)
		}}
	restoreOrder = orderKind{"restore", []string{"upstream", "zone"},
		func(v *health.View, m *health.Member, _ *order, now time.Time) []health.Transition {
			return v.Restore(m, now)
		}}
)

// orderHandler answers POST with the upstream as it is afterwards, once for each
// zone that has it.
func orderHandler(kind orderKind) caddy.AdminHandler {
	return caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if err := allow(w, r, http.MethodPost); err != nil {
			return err
		}
		o, err := readOrder(r, kind)
		if err != nil {
			return err
		}
		f, now := filter{o.Zone, o.Upstream}, time.Now()
		found := f.find(now)
		if len(found) == 0 {
			return noSuchUpstream(o, now)
		}
		for _, u := range found {
			u.carryOut(kind, o, now)
		}
		return answerJSON(w, statuses(f.find(now), now))
	})
}

func (u *foundUpstream) carryOut(kind orderKind, o *order, now time.Time) {
	if l := u.pool.limiters.known(u.Addr); l != nil && kind.name == restoreOrder.name {
		l.limiter.Reset()
	}
	if m := u.pool.health.Lookup(u.Addr); m != nil {
		u.site.tell(kind.do(u.site.view, m, o, now))
	}
}

// maxNamed is how many upstreams an error names.
const maxNamed = 20

func noSuchUpstream(o *order, now time.Time) error {
	var names []string
	for _, u := range (filter{}).find(now) {
		names = append(names, fmt.Sprintf("%s (zone %s)", clip(u.Addr), clip(u.pool.zone)))
	}
	there := "there are none yet"
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	what := fmt.Sprintf("no upstream '%s'", clip(o.Upstream))
	if o.Zone != "" {
		what += fmt.Sprintf(" in zone '%s'", clip(o.Zone))
	}
	return refuse(http.StatusNotFound, "%s: %s", what, there)
}

// readOrder takes the order from the body or from the query, but not from both.
func readOrder(r *http.Request, kind orderKind) (*order, error) {
	// Not a MaxBytesReader: it has the connection reset while the client sends.
	body, err := io.ReadAll(io.LimitReader(r.Body, maxOrderBody+1))
	switch {
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "reading the body: %w", err)
	case len(body) > maxOrderBody:
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", maxOrderBody)
	}
	q, err := queryOf(r, kind.params...)
	if err != nil {
		return nil, err
	}
	o := new(order)
	switch {
	case len(body) > 0 && len(q) > 0:
		return nil, refuse(http.StatusBadRequest, "give the order in the body or in the query, not in both")
	case len(body) > 0:
		err = o.parseBody(r, body, kind)
	default:
		err = o.parseQuery(q)
	}
	if err != nil {
		return nil, err
	}
	o.Upstream = addressIn(o.Upstream)
	return o, o.validate(kind)
}

func (o *order) parseBody(r *http.Request, body []byte, kind orderKind) error {
	if typ, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || typ != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "the body's Content-Type is '%s': send application/json, or query parameters and no body",
			clip(r.Header.Get("Content-Type")))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		if refused := (caddy.APIError{}); errors.As(err, &refused) {
			return refused
		}
		return refuse(http.StatusBadRequest, "decoding the body: %w; fields of %s are %s", err, kind.name, strings.Join(kind.params, ", "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the body has more than one order")
	}
	return nil
}

func (o *order) parseQuery(q map[string]string) error {
	o.Upstream, o.Zone = q["upstream"], q["zone"]
	long, timed := q["for"]
	if !timed {
		return nil
	}
	d, err := caddy.ParseDuration(long)
	if err != nil {
		return badFor(long)
	}
	o.For = (*orderFor)(&d)
	return nil
}

func (o *order) validate(kind orderKind) error {
	switch {
	case o.Upstream == "":
		return refuse(http.StatusBadRequest, "%s needs an upstream", kind.name)
	case o.For != nil && kind.name != ejectOrder.name:
		return refuse(http.StatusBadRequest, "%s takes no 'for': it lasts until the next order", kind.name)
	case o.For != nil && *o.For <= 0:
		return refuse(http.StatusBadRequest, "for is %s: give a duration above 0, or none to eject until restored", o.long())
	}
	return nil
}
