// SPDX-License-Identifier: Apache-2.0

//go:build faultinject

package resetguard

import (
	// Misbehaving origins and the demo, for a build that is not for production.
	_ "github.com/resetguard/caddy-resetguard/faultinject"
	_ "github.com/resetguard/caddy-resetguard/faultinject/demo"
)
