// SPDX-License-Identifier: Apache-2.0

// What tests outside of the package have to see.

package caddymodule

// ValidateForTest tells what Caddy would refuse when it loads the options.
func (f *Failover) ValidateForTest() error { return f.policy().Validate() }
