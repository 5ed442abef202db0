// SPDX-License-Identifier: Apache-2.0

// The kernel's text files, read without allocating.

package pressure

import "bytes"

// parseUint reads the decimal number that text begins with; false if there is
// none. A number too large for 64 bits is the largest one.
func parseUint(text []byte) (n uint64, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		if n > (1<<64-1-9)/10 {
			return 1<<64 - 1, true
		}
		n, ok = n*10+uint64(c-'0'), true
	}
	return n, ok
}

// parsePercent reads a number like 12.34 as a share, 0.1234.
func parsePercent(text []byte) (float64, bool) {
	whole, ok := parseUint(text)
	if !ok {
		return 0, false
	}
	share, unit := float64(whole), 0.1
	if _, decimals, found := bytes.Cut(text, dot); found && digits(text) == len(text)-len(decimals)-1 {
		for _, c := range decimals[:digits(decimals)] {
			share += float64(c-'0') * unit
			unit /= 10
		}
	}
	return share / 100, true
}

var dot = []byte(".")

// digits counts the digits that text begins with.
func digits(text []byte) int {
	for i, c := range text {
		if c < '0' || c > '9' {
			return i
		}
	}
	return len(text)
}

// nextField cuts the next word off a line.
func nextField(line []byte) (field, rest []byte) {
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	for i, c := range line {
		if c == ' ' || c == '\t' {
			return line[:i], line[i:]
		}
	}
	return line, nil
}

// nextLine cuts the next line off a text.
func nextLine(text []byte) (line, rest []byte) {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, nil
}

// lineOf finds the line whose first word this is and returns what follows it.
func lineOf(text []byte, word string) ([]byte, bool) {
	for len(text) > 0 {
		var line []byte
		line, text = nextLine(text)
		if first, rest := nextField(line); string(first) == word {
			return rest, true
		}
	}
	return nil, false
}

// keyed reads a number from a file of lines "key number", as memory.stat.
func keyed(text []byte, key string) (uint64, bool) {
	line, _ := lineOf(text, key)
	field, _ := nextField(line)
	return parseUint(field)
}

// named reads a number from a line "key number key number", as in sockstat.
func named(line []byte, key string) (uint64, bool) {
	for len(line) > 0 {
		var name, value []byte
		name, line = nextField(line)
		value, line = nextField(line)
		if string(name) == key {
			return parseUint(value)
		}
	}
	return 0, false
}

// psi reads avg10 of a line, some or full, of a pressure file, as a share.
func psi(text []byte, kind string) (float64, bool) {
	line, _ := lineOf(text, kind)
	for len(line) > 0 {
		var field []byte
		field, line = nextField(line)
		if value, ok := bytes.CutPrefix(field, avg10); ok {
			return parsePercent(value)
		}
	}
	return 0, false
}

var avg10 = []byte("avg10=")

// paired reads counters from a file of pairs of lines, names and numbers, as
// /proc/net/netstat. It tells whether it found all of them.
func paired(text []byte, group string, names []string, counters []uint64) bool {
	header, ok := lineOf(text, group)
	if !ok {
		return false
	}
	_, numbers, _ := bytes.Cut(text, header)
	if numbers, ok = lineOf(numbers, group); !ok {
		return false
	}
	found := 0
	for len(header) > 0 && len(numbers) > 0 && found < len(names) {
		var name, number []byte
		name, header = nextField(header)
		number, numbers = nextField(numbers)
		for i := range names {
			if string(name) == names[i] {
				if counters[i], ok = parseUint(number); ok {
					found++
				}
			}
		}
	}
	return found == len(names)
}
