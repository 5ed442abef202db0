// SPDX-License-Identifier: Apache-2.0

// Package resetguard makes Caddy keep answering while origins reset their
// connections. Importing it registers the modules; see README.md.
package resetguard

import (
	_ "github.com/resetguard/caddy-resetguard/caddymodule"
)
