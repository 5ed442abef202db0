// SPDX-License-Identifier: Apache-2.0

// Shortages of this host. They are produced in a child process, which is this
// test binary again, because they would hit other tests as well.

package health_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/resetguard/caddy-resetguard/health"
)

// childVar names the shortage that a child is to have.
const childVar = "RESET_GUARD_TEST_SHORTAGE"

func TestMain(m *testing.M) {
	if shortage := os.Getenv(childVar); shortage != "" {
		os.Exit(runChild(shortage))
	}
	os.Exit(m.Run())
}

// outOfFiles is a shortage; the others are error numbers of socket(2).
const outOfFiles = "files"

var shortageCases = []faultCase{
	{
		"out_of_files", "EMFILE by RLIMIT_NOFILE", inChild(outOfFiles),
		want{cause: health.LocalFiles, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
	{
		"out_of_files", "ENFILE", inChild(errno(unix.ENFILE)),
		want{cause: health.LocalFiles, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
	{
		"out_of_files", "ENOBUFS", inChild(errno(unix.ENOBUFS)),
		want{cause: health.LocalMemory, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
	{
		"out_of_files", "ENOMEM", inChild(errno(unix.ENOMEM)),
		want{cause: health.LocalMemory, phases: at(health.PhaseDial), side: health.SideProxy, weight: 0, safety: health.Never},
	},
	{
		"route", "EHOSTUNREACH", inChild(errno(unix.EHOSTUNREACH)),
		want{cause: health.Unreachable, phases: at(health.PhaseDial), side: health.SideNetwork, weight: 0.5, safety: health.Unsent},
	},
	{
		"route", "ENETDOWN", inChild(errno(unix.ENETDOWN)),
		want{cause: health.Unreachable, phases: at(health.PhaseDial), side: health.SideNetwork, weight: 0.5, safety: health.Unsent},
	},
}

func TestClassifyShortage(t *testing.T) { runCases(t, shortageCases) }

func errno(e syscall.Errno) string { return strconv.Itoa(int(e)) }

// childReport is what a child says: its fault without the error, which is text.
type childReport struct {
	Fault health.Fault
	Error string
}

func inChild(shortage string) func(*testing.T) health.Fault {
	return func(t *testing.T) health.Fault {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+shortage, "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("child process: %v: %s", err, out)
		}
		var r childReport
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("child process said %q: %v", out, err)
		}
		t.Logf("the child's error: %s", r.Error)
		return r.Fault
	}
}

func runChild(shortage string) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // also opens what Go's poller needs
	if err != nil {
		return childFails(err)
	}
	if shortage == outOfFiles {
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{})
	} else {
		err = failSyscall(shortage)
	}
	if err != nil {
		return childFails(err)
	}
	_, err = net.Dial("tcp", ln.Addr().String())
	if err == nil {
		return childFails(fmt.Errorf("the dial succeeded in spite of %s", shortage))
	}
	r := childReport{health.Classify(err, health.Evidence{Dialing: true, Watched: true}), err.Error()}
	r.Fault.Err = nil
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return childFails(err)
	}
	return 0
}

func childFails(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// failSyscall makes the kernel answer socket(2), or for errors of routing
// connect(2), with an error number, by a filter that needs no privileges
// (seccomp(2)). A whole host cannot be exhausted in a test.
func failSyscall(number string) error {
	n, err := strconv.ParseUint(number, 10, 12)
	if err != nil {
		return err
	}
	call := uint32(unix.SYS_SOCKET)
	if e := syscall.Errno(n); e == unix.EHOSTUNREACH || e == unix.ENETDOWN {
		call = unix.SYS_CONNECT
	}
	// Load the call's number; if it is ours, fail with n; else allow.
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // both calls must come from one thread
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(&prog)
	if e != 0 {
		return e
	}
	return nil
}
