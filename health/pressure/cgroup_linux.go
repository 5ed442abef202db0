// SPDX-License-Identifier: Apache-2.0

// Where this process's cgroups are.

package pressure

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// mount is where a hierarchy of cgroups is mounted, and which part of it.
type mount struct {
	point, root string
	v2          bool
}

// cgroupMount finds the mount of a controller of version 1, or of version 2 if
// controller is "".
func (h *host) cgroupMount(controller string) (mount, bool) {
	text, _ := os.ReadFile(filepath.Join(h.root, "proc/self/mountinfo"))
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		m := mount{point: fields[4], root: fields[3], v2: kind[0] == "cgroup2"}
		if controller == "" && m.v2 {
			return m, true
		}
		if controller != "" && kind[0] == "cgroup" && contains(kind[2], controller) {
			return m, true
		}
	}
	return mount{}, false
}

// contains tells whether a word is in a list separated by commas.
func contains(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// cgroupPath finds the path of our cgroup within its hierarchy.
func (h *host) cgroupPath(controller string) (string, bool) {
	text, _ := os.ReadFile(filepath.Join(h.root, "proc/self/cgroup"))
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[1] == controller || controller != "" && contains(parts[1], controller)) {
			return parts[2], true
		}
	}
	return "", false
}

// cgroups lists the directories of our cgroup and of those above it, ours first,
// as far as they can be seen from here.
func (h *host) cgroups(controller string) (dirs []string) {
	m, ok := h.cgroupMount(controller)
	own, ok2 := h.cgroupPath(controller)
	if !ok || !ok2 {
		return nil
	}
	if rel, inside := strings.CutPrefix(own, strings.TrimSuffix(m.root, "/")); inside {
		own = rel
	}
	for dir := path.Join("/", own); ; dir = path.Dir(dir) {
		full := path.Join(m.point, dir)
		if _, err := os.Stat(filepath.Join(h.root, full)); err == nil {
			dirs = append(dirs, full)
		}
		if dir == "/" {
			return dirs
		}
	}
}

// ownCgroup is our cgroup of version 2, unless that is all of the machine.
func (h *host) ownCgroup() (dir string, ok bool) {
	dirs := h.cgroups("")
	if len(dirs) == 0 {
		return "", false
	}
	_, err := os.Stat(filepath.Join(h.root, dirs[0], "cgroup.type")) // the root has none
	return dirs[0], err == nil
}
