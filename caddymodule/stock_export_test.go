// SPDX-License-Identifier: Apache-2.0

package caddymodule

// ValidateForTest tells what Caddy would refuse when it loads the options.
func (f *Failover) ValidateForTest() error { return f.policy().Validate() }
