// SPDX-License-Identifier: Apache-2.0

// What tests from outside want to know of the registry.

package caddymodule

// KnownUpstreamsForTest counts the upstreams that any pool remembers.
func KnownUpstreamsForTest() (n int) {
	r, err := acquireRegistry()
	if err != nil {
		return 0
	}
	defer func() { _ = releaseRegistry() }()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pools {
		n += p.health.Len()
	}
	return n
}
