// SPDX-License-Identifier: Apache-2.0

//go:build race

// Whether the race detector watches: it changes what is allocated.

package caddymodule

const raceDetector = true
