// SPDX-License-Identifier: Apache-2.0

// A zone: the state that decisions rest on, shared by all that name it.

package ratelimit

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Size is how much a Zone remembers at most: once it is full, its memory does not
// depend on what is offered. Fields that are 0 get their defaults.
type Size struct {
	Identities, Addresses, Sites, Bins int
}

// The default Size: 0.9 MB at first, 88 MB once all of it was used.
const (
	DefaultIdentities = 1 << 17
	DefaultAddresses  = 1 << 16
	DefaultSites      = 1 << 14
	DefaultBins       = 1 << 17
)

// The slots of a set. Eight keep a hot key from being displaced by chance;
// addresses are bigger, and four are searched faster.
const identityWays, addressWays, siteWays = 8, 4, 4

func (s Size) orDefault() Size {
	return Size{
		Identities: positive(s.Identities, DefaultIdentities),
		Addresses:  positive(s.Addresses, DefaultAddresses),
		Sites:      positive(s.Sites, DefaultSites),
		Bins:       positive(s.Bins, DefaultBins),
	}
}

func positive(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}

// Zone holds counters, never policy: it outlives configurations. Methods may be
// called from several goroutines. Locks are taken in the order address,
// identity, bin, site, and never while calling out.
type Zone struct {
	clock      clock
	secret     secret
	identities *table[identityKey, identity, *identity]
	leaves     *table[network, leaf, *leaf]
	sites      *table[network, site, *site]
	bins       *binArray
	global     *global
	counts     [classes][levels][outcomes]atomic.Uint64
	offenders  offenders
	dominant   atomic.Pointer[Dominant]
	off        mechanism // for tests: what is left out

	mu     sync.Mutex
	random *rand.ChaCha8
	jitter atomic.Uint64
}

// mechanism is a part that can be left out, to see what it is good for.
type mechanism uint8

const (
	provenApart mechanism = 1 << iota // proven and unproven traffic have pools of their own
	fairShare
	tenureFirst
	binning
	innerFirst // the narrowest budget is charged first
	portBins
)

// NewZone makes a zone of which nothing is used.
func NewZone(size Size, now time.Time) *Zone {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	return newSeededZone(size, seed, now)
}

func newSeededZone(size Size, seed [32]byte, now time.Time) *Zone {
	size = size.orDefault()
	z := &Zone{
		clock:      clock{begin: now},
		identities: newTable[identityKey, identity](size.Identities, identityWays),
		leaves:     newTable[network, leaf](size.Addresses, addressWays),
		sites:      newTable[network, site](size.Sites, siteWays),
		bins:       newBinArray(size.Bins),
		global:     newGlobal(),
		random:     rand.NewChaCha8(seed),
	}
	z.secret = secret{z.random.Uint64() | 1, z.random.Uint64() | 1}
	return z
}

// newID makes an identity's number; nobody can choose or foresee it.
func (z *Zone) newID() uint64 {
	z.mu.Lock()
	defer z.mu.Unlock()
	var raw [8]byte
	_, _ = z.random.Read(raw[:]) // never fails
	return max(1, binary.LittleEndian.Uint64(raw[:]))
}

// Decide tells whether a request may pass, and charges it to the budgets if it
// may. Pressure is how much there is to do: 0 none, 1 far too much. The policy
// is to be valid.
func (z *Zone) Decide(p *Policy, r *Request, pressure float64, now time.Time) Decision {
	c := z.newCall(p, r, pressure, now)
	z.global.press(c.pressure)
	z.global.tick(p, c.since, c.now)
	z.global.asked.Add(1)
	mu := c.enter()
	c.leaf.seen.requests++
	c.decide()
	c.settle()
	mu.Unlock()
	z.counts[c.dec.Class][c.dec.Level][OutcomeOf(&c.dec, p.DryRun)].Add(1)
	if !c.dec.Allowed && !p.DryRun {
		z.offenders.note(c.net, c.since)
	}
	return c.dec
}

// TellsServed announces that Served will be called. Otherwise a zone whose origins have
// only failed so far would take what it admits for what they can do. Call it before the
// first Decide.
func (z *Zone) TellsServed() {
	z.global.mu.Lock()
	defer z.global.mu.Unlock()
	z.global.told = true
}

// Served tells that a request of this weight was answered well. Without it a
// zone takes what it admits for what can be done, and finds out more slowly
// when it is too much.
func (z *Zone) Served(weight float64) { z.global.served.Add(int64(costOf(weight))) }

// ServedCheaply is Served for an answer that says nothing of what can be done, as an
// error of the client's: whoever asks for nothing but those must not make it look
// as if there were room for more of what is worth something.
func (z *Zone) ServedCheaply(weight float64) {
	z.global.cheap.Add(int64(costOf(weight)))
	z.Served(weight)
}

// newCall prepares what all steps of a decision need.
func (z *Zone) newCall(p *Policy, r *Request, pressure float64, now time.Time) call {
	since := z.clock.since(now)
	c := call{
		z: z, p: p, r: *r,
		pressure: cleanPressure(pressure),
		addr:     r.Addr.Unmap().WithZone(""),
		since:    since, now: z.clock.begin.Add(since),
		cost: costOf(r.Weight),
	}
	c.net, c.regime = leafOf(c.addr), z.global.regime.Load()
	c.identify()
	c.dec.Class = c.classOf()
	switch {
	case c.claimed:
		c.dec.Young = c.claimYoung
	case c.dec.Class == Proven:
		c.dec.Young = !r.Token.tenured(now)
	}
	c.without()
	return c
}

// costOf is a request's cost in units.
func costOf(weight float64) int {
	if !(weight > 0) {
		return unit
	}
	return max(1, int(min(weight, MaxWeight)*unit))
}

func (c *call) classOf() Class {
	switch t := &c.r.Token; {
	case c.claimed:
		return Proven
	case c.user != 0:
		return Verified
	case t.ID == 0:
		return Unknown
	case t.Stage == Trusted && t.Home:
		return Proven
	}
	return Known
}

// call is one request on its way through the levels.
type call struct {
	z        *Zone
	p        *Policy
	r        Request // by value, so that callers can keep theirs on the stack
	regime   *regime
	addr     netip.Addr
	net      network
	pressure float64
	since    time.Duration
	now      time.Time
	cost     int
	leaf     *leaf
	leafHash uint64
	user     uint64 // hash of a user or of a confirmed claim; 0: none
	claimed  bool   // it is a claim's
	// claimYoung tells that the claim was confirmed lately.
	claimYoung bool
	light      bool // the identity has used little of its own budget
	dec        Decision
}

// without makes of a call what it would be without some mechanisms.
func (c *call) without() {
	if c.z.off&provenApart != 0 && c.dec.Class == Proven {
		c.dec.Class, c.dec.Young = Known, false
	}
	if c.z.off&tenureFirst != 0 {
		c.dec.Young = false
	}
}

// enter finds the call's address, brings it up to date and leaves it locked.
func (c *call) enter() *sync.Mutex {
	c.leafHash = c.z.secret.network(c.net)
	mu := c.z.leaves.lock(c.leafHash)
	l, from := c.z.leaves.claimLocked(c.leafHash, c.net, c.now)
	c.leaf = l
	if from != found {
		l.begin(from, c.budget(c.p.priorUsers(c.addr)), c.now)
	}
	if c.dec.Class >= Proven {
		l.users.see(c.z.secret.sum(c.identityKey().hash, 1))
	}
	c.update()
	return mu
}

// update is what an address needs from time to time.
func (c *call) update() {
	l := c.leaf
	dt := c.now.Sub(l.ticked)
	if dt < leafTick {
		return
	}
	l.ticked = c.now
	l.recount(int64(c.since/userEpoch), dt)
	prior := c.p.priorUsers(c.addr)
	b := c.budget(l.believed(prior, c.pressure))
	if c.p.Auto { // whatever others do, each proven client has a reader's average
		b.proven = max(b.proven, fairFloor*max(l.count, prior))
	}
	if c.p.Auto && c.pressure == 0 {
		l.short = false
	}
	l.adapt(b.client, b.proven, c.now)
	l.tune(b, c.now)
	l.welcome(provenSeconds*c.p.PerClient*c.scale(1), c.now)
	c.z.watchDominant(c)
}

// budget is what the policy gives an address with so many users.
func (c *call) budget(count float64) leafBudget {
	client, _ := c.p.ClientBudget()
	b := leafBudget{
		client:  client,
		proven:  min(c.p.Base+c.p.PerClient*count, c.p.provenLimit()),
		vouched: unprovenPerUser * c.p.PerClient * count,
	}
	b.unproven = c.p.unprovenCalm(c.pressure) + b.vouched
	if c.p.Auto {
		b.proven = max(1, c.scale(1)*b.proven)
		b.unproven = max(1, c.scale(0)*b.unproven)
		b.vouched *= c.scale(0)
	}
	return b
}

// siteBudget is what the policy gives the networks around the address, for each
// address that their sizes count for: for the proven as much as one with as many users as
// count, for others as one without any, but not less than this address has. In
// Auto that is a part of what can be done, and not of the share of one address: when
// shares get small, a network with many offices would have the pool of one of them.
func (c *call) siteBudget() (b siteBudget) {
	b.rate = [2]float64{c.budget(0).unproven, c.p.provenLimit()}
	b.leaf[0] = float64(c.leaf.known.Limit()+c.leaf.unknown.Limit()) / unit
	if c.p.Auto {
		b.rate[1] *= c.possible()
		b.leaf[1] = float64(c.leaf.proven.Limit()) / unit
	}
	return b
}

// possible is what can be done, in parts of what the default budgets are made for.
func (c *call) possible() float64 {
	return min(c.regime.total, c.regime.capacity) / referenceCapacity
}

// scale is what budgets of addresses are multiplied by, those for the unproven (0)
// and for the proven (1).
func (c *call) scale(proven int) float64 {
	if !c.p.Auto {
		return 1
	}
	return c.regime.share[proven] * c.possible()
}
