// SPDX-License-Identifier: Apache-2.0

// Reading an option of the Caddyfile that is "off" or a block of options.

package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// optionBlock reads `<name> off`, or a block with at least one option, with the
// dispenser at the name.
type optionBlock struct {
	name string
	// option reads one, with the dispenser at its name, to the end of its line.
	option func(opt string) error
	// often are options that may stand more than once.
	often []string
}

// unmarshal tells whether the option is off.
func (b optionBlock) unmarshal(d *caddyfile.Dispenser) (off bool, err error) {
	if d.NextArg() {
		if d.Val() != "off" || d.NextArg() {
			return false, d.Errf("%s takes 'off' or a block, not '%s'", b.name, d.Val())
		}
		if d.NextBlock(d.Nesting()) {
			return false, d.Errf("%[1]s off takes no block: remove 'off' or the block", b.name)
		}
		return true, nil
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		opt := d.Val()
		if seen[opt] && !slices.Contains(b.often, opt) {
			return false, d.Errf("%s already specified", opt)
		}
		seen[opt] = true
		if opt == "off" {
			return false, d.Errf("off stands on the line of %[1]s, without a block: %[1]s off", b.name)
		}
		if err := b.option(opt); err != nil {
			return false, err
		}
		if d.NextBlock(d.Nesting()) {
			return false, d.Errf("%s takes no block", opt)
		}
	}
	if len(seen) == 0 {
		return false, d.Errf("%s takes 'off' or a block with at least one option", b.name)
	}
	return false, nil
}
