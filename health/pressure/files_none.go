// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

// Systems that do not limit or do not list open files. That they have run out
// still shows in errors.

package pressure

func fileSource() *source { return missing("files", Files) }

// FilesAllowed is how many descriptors this process may have; 0 if that is not
// limited or not known.
func FilesAllowed() uint64 { return 0 }
