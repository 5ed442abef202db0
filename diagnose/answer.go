// SPDX-License-Identifier: Apache-2.0

// Renders a verdict: a page for people, problem details for programs, two lines
// for terminals, and one field for whoever debugs the chain of proxies.

package diagnose

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/resetguard/caddy-resetguard/health"
)

// DefaultName is what ProxyStatus calls the proxy if the operator has not.
const DefaultName = "reset_guard"

// maxID is more than any request id in use; it keeps the page small.
const maxID = 128

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page.html").Parse(pageSource))

// Render writes the answer's body. requestID may be whatever the client sent:
// it is cut, cleaned and escaped.
func Render(f Format, v Verdict, requestID string) (contentType string, body []byte) {
	id := cleanID(requestID)
	switch f {
	case HTML:
		if body, ok := renderPage(v, id); ok {
			return "text/html; charset=utf-8", body
		}
	case Problem:
		if body, ok := renderProblem(v, id); ok {
			return "application/problem+json", body
		}
	}
	return "text/plain; charset=utf-8", renderPlain(v, id)
}

func renderPage(v Verdict, id string) ([]byte, bool) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Verdict
		Stations [3]station
		Advice   string
		ID       string
	}{v, stations(v.Side), advice(v), id})
	return b.Bytes(), err == nil
}

// advice is what the visitor can do. No page can know whether the visitor was
// sending something, so the template warns against sending twice in any case.
func advice(v Verdict) string {
	switch {
	case v.Side == health.SideClient:
		return "Please check your internet connection, then try again."
	case v.RetryAfter > 0:
		return fmt.Sprintf("Nothing is wrong with your device. Please try again in %s.", spoken(v.RetryAfter))
	default:
		return "Nothing is wrong with your device. Please try again in a minute."
	}
}

func spoken(d time.Duration) string {
	if s := int(d / time.Second); s > 1 {
		return fmt.Sprintf("%d seconds", s)
	}
	return "a second"
}

// problem is RFC 9457's object. Its type is about:blank: the faults differ in
// what they tell people, while a program can act on the status alone, and a type
// of our own would only name the software. With about:blank the title has to be
// the status phrase (section 4.2.1).
type problem struct {
	Type      string      `json:"type"`
	Title     string      `json:"title"`
	Status    int         `json:"status"`
	Detail    string      `json:"detail"`
	Instance  string      `json:"instance,omitempty"`
	FaultSide health.Side `json:"fault_side"`
	RequestID string      `json:"request_id,omitempty"`
}

func renderProblem(v Verdict, id string) ([]byte, bool) {
	p := problem{
		Type:      "about:blank",
		Title:     http.StatusText(v.Status),
		Status:    v.Status,
		Detail:    v.Title + ". " + v.Detail,
		FaultSide: v.Side,
		RequestID: id,
	}
	if isUUID(id) {
		p.Instance = "urn:uuid:" + strings.ToLower(id) // RFC 9562 section 4
	}
	body, err := json.Marshal(p)
	return append(body, '\n'), err == nil
}

func renderPlain(v Verdict, id string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %s: %s. %s\n", v.Status, http.StatusText(v.Status), v.Title, v.Detail)
	fmt.Fprintf(&b, "The fault is %s.", place(v.Side))
	if v.RetryAfter > 0 {
		fmt.Fprintf(&b, " Please try again in %s.", spoken(v.RetryAfter))
	}
	if id != "" {
		fmt.Fprintf(&b, " Request ID: %s", id)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// cleanID keeps visible ASCII, so that an id can neither break a line nor send
// a terminal an escape sequence, and no more of it than anyone would read out.
func cleanID(id string) string {
	id = id[:min(len(id), maxID)]
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, id)
}

// isUUID knows the one form that a urn:uuid takes (RFC 9562 section 4).
func isUUID(s string) bool {
	if len(s) != len("00000000-0000-0000-0000-000000000000") {
		return false
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (s[i] == '-') || !dash && !isHex(s[i]) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// ProxyStatus makes this proxy's member of the Proxy-Status field (RFC 9209).
// name is a token if it can be one, else a string, else DefaultName: only
// printable ASCII fits into either (RFC 9651 section 3.3.3).
func ProxyStatus(name string, v Verdict) string {
	params := httpsfv.NewParams()
	if v.ProxyStatusError != "" {
		params.Add("error", httpsfv.Token(v.ProxyStatusError))
	}
	if v.ReceivedStatus != 0 {
		params.Add("received-status", v.ReceivedStatus)
	}
	for _, value := range []any{httpsfv.Token(name), name} {
		item := httpsfv.Item{Value: value, Params: params}
		if field, err := httpsfv.Marshal(item); name != "" && err == nil {
			return field
		}
	}
	if name == DefaultName {
		return DefaultName // unknown error type: the name alone is still true
	}
	return ProxyStatus(DefaultName, v)
}
