// SPDX-License-Identifier: Apache-2.0

// Renders a refusal by a limit: a page for people, problem details for all
// others. It must be cheap, as there may be thousands of them a second.

package diagnose

import (
	"encoding/json"
	"fmt"
	"html"
	"strconv"
	"time"
)

// Refusal is what a client is told that may not pass now. Nothing in it comes
// from the client.
type Refusal struct {
	Status     int           // 429 or 503
	Type       string        // the URI of the problem's type
	Policy     string        // the budget that is used up: "client" or "network"
	RetryAfter time.Duration // whole seconds
	// Client tells that it is the client's own budget, not one that it shares.
	Client bool
	// RequestID is what the access log has for this request; "" if there is none.
	RequestID string
}

// RenderRefusal writes the answer's body.
func RenderRefusal(f Format, r Refusal) (contentType string, body []byte) {
	title, detail := r.words()
	wait := spoken(r.RetryAfter)
	if f == HTML {
		id := ""
		if r.RequestID != "" {
			id = " · Request ID: <code>" + html.EscapeString(r.RequestID) + "</code>"
		}
		return "text/html; charset=utf-8", fmt.Appendf(nil, refusalPage, r.Status, title, title, detail, wait, r.Status, id)
	}
	body = append(make([]byte, 0, 384), `{"type":`...)
	body = strconv.AppendQuote(body, r.Type)
	body = append(body, `,"title":`...)
	body = strconv.AppendQuote(body, title)
	body = append(body, `,"status":`...)
	body = strconv.AppendInt(body, int64(r.Status), 10)
	body = append(body, `,"detail":`...)
	body = strconv.AppendQuote(body, detail+" Please try again in "+wait+".")
	if r.Status == 429 {
		body = append(body, `,"violated-policies":[`...)
		body = append(strconv.AppendQuote(body, r.Policy), ']')
	}
	if id, err := json.Marshal(r.RequestID); err == nil && r.RequestID != "" {
		body = append(body, `,"request_id":`...)
		body = append(body, id...)
	}
	return "application/problem+json", append(body, "}\n"...)
}

func (r Refusal) words() (title, detail string) {
	switch {
	case r.Status == 503:
		return "The site is very busy", "There is more to do at the moment than the site can do."
	case r.Client:
		return "Too many requests", "This client has sent more requests than it may."
	}
	return "Too many requests from this network", "More requests than usual come from the network that this client is in. They need not be its own."
}

// refusalPage takes status, title, title, detail, wait, status and the request's id.
const refusalPage = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>%d – %s</title>
<style>
:root{color-scheme:light dark}
body{margin:8vh auto;max-width:40rem;padding:0 1.25rem;font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2}
footer{opacity:.7;font-size:.875rem}
</style>
</head>
<body>
<main>
<h1>%s</h1>
<p>%s</p>
<p>Nothing is wrong with your device. Please try again in %s. If you were sending something, such as a form or an order, it has not arrived.</p>
<footer>Error %d%s</footer>
</main>
</body>
</html>
`
