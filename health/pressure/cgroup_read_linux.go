// SPDX-License-Identifier: Apache-2.0

// The limits of this process's cgroups: memory, and processor time.

package pressure

import (
	"math"
	"os"
	"path/filepath"
	"time"
)

// memoryFiles are the names that a version of cgroups gives to the same things.
type memoryFiles struct {
	controller       string
	limits           []string // the least one counts
	usage            string
	inactive, active string // keys of memory.stat: what is only a copy of files
}

var memoryVersions = []memoryFiles{
	{"", []string{"memory.max", "memory.high"}, "memory.current", "inactive_file", "active_file"},
	{"memory", []string{"memory.limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file", "total_active_file"},
}

// unlimited is more memory than any machine has; version 1 has no word for it.
const unlimited = 1 << 60

// cgroupMemory compares the memory of a cgroup with its limit. What the kernel
// can take back at once, copies of files, does not count.
type cgroupMemory struct {
	host   *host
	names  memoryFiles
	limits []*procFile
	usage  *procFile
	stat   *procFile

	limit, files float64
	due          time.Time // for reading what changes slowly
}

func openCgroupMemory(h *host) (reader, error) {
	err := error(errNoLimit)
	for _, names := range memoryVersions {
		dirs := h.cgroups(names.controller)
		if dir, ok := h.tightest(dirs, names); ok {
			var r *cgroupMemory
			if r, err = openMemoryOf(h, dir, names); err == nil {
				return r, nil
			}
		}
	}
	return nil, err
}

// tightest finds the cgroup, ours or above it, with the lowest limit.
func (h *host) tightest(dirs []string, names memoryFiles) (dir string, ok bool) {
	least := float64(unlimited)
	for _, d := range dirs {
		for _, name := range names.limits {
			text, err := os.ReadFile(filepath.Join(h.root, d, name))
			if n, isNumber := parseUint(text); err == nil && isNumber && float64(n) < least {
				least, dir, ok = float64(n), d, true
			}
		}
	}
	return dir, ok
}

func openMemoryOf(h *host, dir string, names memoryFiles) (*cgroupMemory, error) {
	paths := []string{dir + "/" + names.usage, dir + "/memory.stat"}
	for _, name := range names.limits {
		paths = append(paths, dir+"/"+name)
	}
	f, err := openAll(h.root, paths...)
	if err != nil {
		return nil, err
	}
	return &cgroupMemory{host: h, names: names, usage: f[0], stat: f[1], limits: f[2:]}, nil
}

func (c *cgroupMemory) read(v *values, now time.Time) error {
	if !now.Before(c.due) {
		c.due = now.Add(slowly)
		if err := c.readSlow(); err != nil {
			return err
		}
	}
	usage, ok, err := c.usage.number()
	if err != nil || !ok {
		return err
	}
	own := max(0, usage-c.files)
	v[0], v[1] = max(0, own-c.host.reclaimable)/c.limit, own/c.limit
	return nil
}

// readSlow reads the limit, which may be changed, and memory.stat, for which the
// kernel has to sum up all processors.
func (c *cgroupMemory) readSlow() error {
	c.limit = math.Inf(1)
	for _, f := range c.limits {
		n, ok, err := f.number()
		if err != nil {
			return err
		}
		if ok && n < unlimited && n > 0 {
			c.limit = min(c.limit, n)
		}
	}
	text, err := c.stat.read()
	if err != nil {
		return err
	}
	inactive, _ := keyed(text, c.names.inactive)
	active, _ := keyed(text, c.names.active)
	c.files = float64(inactive) + float64(active)
	return nil
}

func (c *cgroupMemory) close() {
	closeAll(c.limits)
	c.usage.close()
	c.stat.close()
}

// throttling tells the share of periods in which the processor time allowed was
// used up.
type throttling struct {
	file               *procFile
	periods, throttled uint64
}

func openThrottling(h *host) (reader, error) {
	err := error(errNoLimit)
	for _, controller := range []string{"", "cpu"} {
		dirs := h.cgroups(controller)
		for _, dir := range dirs {
			var f *procFile
			if f, err = openProc(h.root, dir+"/cpu.stat"); err != nil {
				continue
			}
			t := &throttling{file: f}
			if err = t.read(&values{}, time.Time{}); err == nil {
				return t, nil
			}
			f.close()
		}
	}
	return nil, err
}

func (t *throttling) read(v *values, _ time.Time) error {
	text, err := t.file.read()
	if err != nil {
		return err
	}
	periods, ok := keyed(text, "nr_periods")
	throttled, ok2 := keyed(text, "nr_throttled")
	if !ok || !ok2 {
		return t.file.invalid()
	}
	v[0] = 0
	if periods > t.periods && throttled >= t.throttled {
		v[0] = min(1, float64(throttled-t.throttled)/float64(periods-t.periods))
	}
	t.periods, t.throttled = periods, throttled
	return nil
}

func (t *throttling) close() { t.file.close() }
