// SPDX-License-Identifier: Apache-2.0

// What is asked and what is answered: requests, classes, levels, decisions.

package ratelimit

import (
	"net/netip"
	"time"
)

// Class is what is known of a client, the least first: traffic is shed in this
// order.
type Class uint8

const (
	// Unknown shows nothing valid. A forged token is nothing.
	Unknown Class = iota
	// Known has a valid token that is not, not yet or not here proven.
	Known
	// Proven has a token that proved itself at this network, or a claim that was
	// confirmed.
	Proven
	// Verified is an authenticated user or a client certificate.
	Verified
	classes
)

func (c Class) String() string {
	return [...]string{"unknown", "known", "proven", "verified", ""}[min(c, classes)]
}

// Level is where a decision fell, from the narrowest to the widest.
type Level uint8

const (
	// LevelNone is that of what was allowed.
	LevelNone Level = iota
	// LevelClient is the identity's own budget.
	LevelClient
	// LevelShare is the identity's part of what its address has, which is short: it is
	// within its own budget.
	LevelShare
	// LevelBin is the budget of those who look alike among the unproven.
	LevelBin
	// LevelAddress is the address's pool.
	LevelAddress
	// LevelSite is the network's around it.
	LevelSite
	// LevelUnproven is what all unproven traffic shares.
	LevelUnproven
	// LevelTotal is what the origins can do.
	LevelTotal
	levels
)

func (l Level) String() string {
	return [...]string{"none", "client", "share", "bin", "address", "site", "unproven", "total", ""}[min(l, levels)]
}

// Reason is why a decision fell as it did: one word for logs.
type Reason uint8

const (
	// WithinBudget: every level had room.
	WithinBudget Reason = iota
	// Lent: over a budget, but others left capacity unused.
	Lent
	// OverClient: this identity asks for more than its budget.
	OverClient
	// OverFairShare: the address is short of room, and this identity has had its
	// part of it.
	OverFairShare
	// OverLookalikes: too much from unproven clients that look like this one.
	OverLookalikes
	// OverAddress: the address is over its budget.
	OverAddress
	// OverYoung: the address is short of room, and older identities come first.
	OverYoung
	// OverSite: the network around the address is over its budget.
	OverSite
	// OverUnproven: there is too much unproven traffic altogether.
	OverUnproven
	// OverCapacity: the origins cannot do more, and this class is shed first.
	OverCapacity
	reasons
)

func (r Reason) String() string {
	return [...]string{
		"within_budget", "lent", "over_client", "over_fair_share", "over_lookalikes",
		"over_address", "over_young", "over_site", "over_unproven", "over_capacity", "",
	}[min(r, reasons)]
}

// Request is what a decision needs to know of a request. The strings are only
// hashed, never kept.
type Request struct {
	// Addr is the client's address, as far as proxies are trusted.
	Addr netip.Addr
	// Port is the client's, 0 unless it reached this server itself.
	Port uint16
	// User is a verified identity; empty: none.
	User string
	// Claim is an identity that nobody has checked, as a key in a header. It
	// counts once Confirm was called for it.
	Claim string
	// Scope is the host that was asked. Claims of one are not those of another, though
	// they may have the same name: sites may check different keys. Each host that
	// somebody makes up costs a credit. It does not count for users, which cost none.
	Scope string
	// Source is which placeholder the user or claim came from: the same text in
	// another header is somebody else.
	Source string
	// Token is what Signer.Verify returned; the zero value: none.
	Token Token
	// Look is a hash of what can be forged: TLS hello, User-Agent, languages. It
	// chooses among bins of the same pool and is never an identity.
	Look uint64
	// Weight is the request's cost in ordinary ones; 0: 1.
	Weight float64
	// Room tells that there is room for it which nobody waits for. Then nobody is
	// refused for the sake of others.
	Room bool
	// Critical tells that the operator wants others to be refused before it.
	Critical bool
}

// Decision is the answer, with all that headers, logs and metrics need.
type Decision struct {
	Allowed bool
	Class   Class
	// Young tells of a Proven identity that was proven less than an hour ago.
	Young  bool
	Level  Level
	Reason Reason
	// RetryAfter is when asking again makes sense: whole seconds, with jitter
	// where many wait for the same; 0 if allowed.
	RetryAfter time.Duration
	// Limit requests per Window are the nominal budget of this identity, and
	// Remaining what it has left now. All 0 if it has none of its own: what its
	// network has left would tell it about its neighbours.
	Limit, Remaining int
	Window           time.Duration
	// Offer tells that Issue may be asked for a token.
	Offer bool
}

// Status is the answer's HTTP status: 429 if this client or its network is over
// its budget, 503 if there is too much for the site.
func (d *Decision) Status() int {
	switch {
	case d.Allowed:
		return 200
	case d.Level >= LevelUnproven:
		return 503
	}
	return 429
}

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	ProblemQuota    = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	ProblemCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
	ProblemAbnormal = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
)

// Problem is the type of the problem+json document of a refusal.
func (d *Decision) Problem() string {
	switch {
	case d.Status() == 503:
		return ProblemCapacity
	case d.Level == LevelBin:
		return ProblemAbnormal
	}
	return ProblemQuota
}

// PolicyName is the quota's name in RateLimit fields: "client" or "network".
func (d *Decision) PolicyName() string {
	if d.Level > LevelClient {
		return "network"
	}
	return "client"
}
