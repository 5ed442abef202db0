// SPDX-License-Identifier: Apache-2.0

// A site's use of a pool: its policy and its origins.

package health

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Origin is what a configuration says about an origin.
type Origin struct {
	Addr string
	// Weight is its share of the requests in relation to others'; 0 means 1.
	Weight float64
}

// View is a Pool as one configuration sees it: with a policy, and with those of
// the origins that the configuration has. Close it when the configuration ends.
// Methods may be called from several goroutines.
type View struct {
	pool   *Pool
	policy EjectPolicy
	random func() uint64

	origins atomic.Pointer[[]entry] // replaced, never changed
	mu      sync.Mutex              // guards the replacing
	closed  bool
	tidied  time.Duration // when Add last looked for idle origins
}

type entry struct {
	m      *Member
	weight float64
	added  bool // by Add: it may go again
}

// View returns a view without origins. policy must be valid.
func (p *Pool) View(policy EjectPolicy) *View {
	v := &View{pool: p, policy: policy, random: rand.Uint64}
	v.origins.Store(&[]entry{})
	return v
}

// Pool is what the view is of.
func (v *View) Pool() *Pool { return v.pool }

// Sync makes these the view's origins: index i of a Choice is origins[i]. An
// address may occur more than once. If so many of the ejected ones are left that
// they exceed the policy's share, those whose time is over first return at once.
func (v *View) Sync(origins []Origin, now time.Time) []Transition {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	return v.replace(origins, len(origins), now)
}

const (
	// addedIdle is how long an origin that was Added stays without requests.
	addedIdle = 5 * time.Minute
	// addedTidy is how often idle ones are looked for.
	addedTidy = time.Minute
	// evictPart is which part of them goes if there are too many.
	evictPart = 4
)

// Add finds an origin by its address and takes it in if it is new to the view,
// for addresses that become known with the request. It stays until nothing was
// sent to it for five minutes, or until more than MaxMembers are there. What is
// no address is not taken in: nothing is known about it, now or later.
func (v *View) Add(addr string, now time.Time) (*Member, []Transition) {
	if i := v.index(addr); i >= 0 {
		return (*v.origins.Load())[i].m, nil
	}
	if !isName(addr) {
		return newStray(addr, v.pool.at(now)), nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := v.index(addr); i >= 0 {
		return (*v.origins.Load())[i].m, nil
	}
	if v.closed {
		return newStray(addr, v.pool.at(now)), nil
	}
	var events []Transition
	if t := v.pool.at(now); t-v.tidied >= addedTidy || t < v.tidied || len(*v.origins.Load()) >= MaxMembers {
		origins, fixed := v.kept(now)
		events, v.tidied = v.replace(origins, fixed, now), t
	}
	return v.extend(addr, now), events
}

// extend takes in one more origin, at a cost that does not grow with their number:
// clients may be able to name ever more of them.
func (v *View) extend(addr string, now time.Time) *Member {
	p := v.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.admitLocked([]string{addr}, p.at(now))[0]
	p.enterLocked(m)
	list := append(*v.origins.Load(), entry{m: m, weight: 1, added: true}) // readers see no further than before
	v.origins.Store(&list)
	return m
}

// isName tells whether addr may be an address: text, without control characters.
func isName(addr string) bool {
	return utf8.ValidString(addr) && strings.IndexFunc(addr, unicode.IsControl) < 0
}

// newStray makes an origin that belongs to no view: what becomes of requests to
// it counts for nothing.
func newStray(addr string, t time.Duration) *Member {
	m := newMember(addr, t)
	m.stray = true
	return m
}

// index of an address. A pool's own lookup comes first: most views are short.
func (v *View) index(addr string) int {
	m := v.pool.Lookup(addr)
	if m == nil {
		return -1
	}
	return slices.IndexFunc(*v.origins.Load(), func(e entry) bool { return e.m == m })
}

// kept lists what stays when another origin is added, and how many of these
// were not added themselves.
func (v *View) kept(now time.Time) (origins []Origin, fixed int) {
	list := *v.origins.Load()
	oldest := v.pool.at(now) - addedIdle
	if len(list) >= MaxMembers {
		oldest = max(oldest, oldestSeen(list))
	}
	for _, e := range list {
		if !e.added {
			fixed++
		} else if e.m.InFlight() == 0 && time.Duration(e.m.seen.Load()) <= oldest {
			continue
		}
		origins = append(origins, Origin{Addr: e.m.addr, Weight: e.weight})
	}
	return origins, fixed
}

// oldestSeen is when the oldest part of the added origins was last used.
func oldestSeen(list []entry) time.Duration {
	var seen []int64
	for _, e := range list {
		if e.added && e.m.InFlight() == 0 {
			seen = append(seen, e.m.seen.Load())
		}
	}
	if len(seen) == 0 {
		return 0
	}
	slices.Sort(seen)
	return time.Duration(seen[len(seen)/evictPart])
}

// replace publishes a new list, of which all from index fixed on were added.
func (v *View) replace(origins []Origin, fixed int, now time.Time) []Transition {
	p, t := v.pool, v.pool.at(now)
	addrs := make([]string, len(origins))
	for i, o := range origins {
		addrs[i] = o.Addr
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]entry, len(origins))
	for i, m := range p.admitLocked(addrs, t) {
		list[i] = entry{m: m, weight: origins[i].Weight, added: i >= fixed}
		if list[i].weight <= 0 {
			list[i].weight = 1
		}
	}
	eachOnce(list, p.enterLocked)
	eachOnce(*v.origins.Swap(&list), p.leaveLocked)
	return v.trimLocked(t)
}

// eachOnce calls do for each member of the list, but once only.
func eachOnce(list []entry, do func(*Member)) {
	done := make(map[*Member]bool, len(list))
	for _, e := range list {
		if !done[e.m] {
			done[e.m] = true
			do(e.m)
		}
	}
}

// Close gives the origins up. What is under way may still choose among them and
// be observed: requests outlast their configuration. It may be called more than
// once.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.closed = true
	v.pool.mu.Lock()
	defer v.pool.mu.Unlock()
	eachOnce(*v.origins.Load(), v.pool.leaveLocked)
}
