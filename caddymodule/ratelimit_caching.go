// SPDX-License-Identifier: Apache-2.0

// Whether a shared cache may keep an answer, as far as that can be known before it
// goes out.

package caddymodule

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// mayCarryCookie tells whether no shared cache keeps an answer (RFC 9111 section
// 3). A page that says nothing about caches could be kept; cacheControl is what
// to say with it, for the once that it carries a cookie.
func mayCarryCookie(header http.Header, status int, c *visitor) (ok bool, cacheControl string) {
	if status == http.StatusSwitchingProtocols || status == http.StatusNotModified {
		return false, "" // the latter would change what a cache has
	}
	for field := range header {
		if targetsCaches(field) {
			return false, "" // it wins over Cache-Control (RFC 9213)
		}
	}
	directives := strings.ToLower(strings.Join(header["Cache-Control"], ","))
	switch {
	case hasDirective(directives, "no-store"), hasDirective(directives, "private"):
		return true, ""
	case directives != "", header.Get("Expires") != "":
		return false, ""
	case c.method != http.MethodGet && c.method != http.MethodHead:
		return true, ""
	case c.navigates:
		return true, "private"
	}
	return false, ""
}

// targetsCaches tells of a field that speaks to some caches only, whatever it tells
// them: each of these has a syntax of its own.
func targetsCaches(field string) bool {
	const suffix = "cache-control"
	for _, name := range [...]string{"surrogate-control", "edge-control", "x-accel-expires"} {
		if strings.EqualFold(field, name) {
			return true
		}
	}
	return len(field) > len(suffix) && strings.EqualFold(field[len(field)-len(suffix):], suffix)
}

// hasDirective looks for a word among directives. One with a list of fields
// (private="x") keeps only those from caches.
func hasDirective(directives, word string) bool {
	for d := range strings.SplitSeq(directives, ",") {
		if strings.Trim(d, " \t") == word {
			return true
		}
	}
	return false
}

// isNavigation tells a page that somebody opens from what pages load.
func isNavigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return slices.ContainsFunc(r.Header["Accept"], func(line string) bool { return strings.HasPrefix(line, "text/html") })
}

// The handlers of Caddy that change an answer's header after those behind them have
// written it: header, if it deletes or defers anything, and intercept.
const (
	headersPackage   = "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	interceptPackage = "github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
)

// changesCaching tells that a handler before ours may yet change what the answer
// says to caches. There is no way to be asked after them.
func changesCaching(w http.ResponseWriter) bool {
	for w != nil {
		v := reflect.Indirect(reflect.ValueOf(w))
		switch v.Type().PkgPath() {
		case interceptPackage:
			return true
		case headersPackage:
			if headerChangesCaching(v) {
				return true
			}
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapper.Unwrap()
	}
	return false
}

// headerChangesCaching looks into the writer of Caddy's handler headers. One that
// looks different from what is known may do anything.
func headerChangesCaching(writer reflect.Value) bool {
	ops := writer
	if ops.Kind() == reflect.Struct {
		ops = ops.FieldByName("headerOps")
	}
	if ops.Kind() != reflect.Pointer || ops.Type().Elem().Kind() != reflect.Struct {
		return true
	}
	if ops.IsNil() {
		return false
	}
	for _, name := range []string{"Add", "Set", "Replace"} {
		fields := ops.Elem().FieldByName(name)
		if fields.Kind() != reflect.Map {
			return true
		}
		for _, field := range fields.MapKeys() {
			if concernsCaches(field.String()) {
				return true
			}
		}
	}
	deleted := ops.Elem().FieldByName("Delete")
	if deleted.Kind() != reflect.Slice {
		return true
	}
	for i := range deleted.Len() {
		if concernsCaches(deleted.Index(i).String()) {
			return true
		}
	}
	return false
}

// concernsCaches tells that a field, or one that matches this pattern, says whether
// caches may keep an answer.
func concernsCaches(pattern string) bool {
	p := strings.ToLower(pattern)
	bare := strings.Trim(p, "*")
	switch {
	case strings.Contains(p, "{"): // filled in for each request
		return true
	case bare == p:
		return p == "cache-control" || p == "expires" || targetsCaches(p)
	}
	return strings.Contains("cache-control", bare) || strings.Contains("expires", bare)
}
