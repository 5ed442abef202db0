// SPDX-License-Identifier: Apache-2.0

// What the package is for, and what it promises.

// Package ratelimit decides who may pass when there is not enough for all, and
// does so fairly for the many people behind one address. It knows neither Caddy
// nor HTTP: requests are values, decisions are values, time is an argument.
//
// It keys on identities that were proven to the server, inside a budget of their
// address. All that is unproven at an address shares one bounded pool. Budgets
// are charged from the narrowest to the widest, so that what is refused inside
// never uses up what belongs to others. Memory is fixed: keys beyond it inherit
// the debts of those they displace.
//
// What it cannot do: N tokens that one attacker collected patiently, each used
// like a visitor, are N visitors. No passive signal tells them apart; what they
// get is bounded, and comes after older identities.
package ratelimit
