// SPDX-License-Identifier: Apache-2.0

// The listeners whose queues of connections not yet accepted are watched.

package pressure

import (
	"errors"
	"net"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"
)

// listener is one watched listener.
type listener struct {
	conn  syscall.RawConn
	look  func(fd uintptr) // made once, so that asking does not allocate
	share float64
}

// listeners are those that Watch was given.
type listeners struct {
	mu  sync.Mutex
	all []*listener
}

// Watch adds a listening socket until stop is called or it is closed. On
// systems that do not tell the length of the queue it does nothing.
func (s *Sampler) Watch(conn syscall.RawConn) (stop func()) {
	l := &listener{conn: conn}
	l.look = func(fd uintptr) { l.share = acceptQueue(fd) }
	ls := &s.host.listeners
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = append(ls.all, l)
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		ls.all = slices.DeleteFunc(ls.all, func(other *listener) bool { return other == l })
	}
}

// fullest is the share to which the fullest queue is filled. Listeners that
// have been closed are forgotten.
func (ls *listeners) fullest() (share float64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for i := len(ls.all) - 1; i >= 0; i-- {
		l := ls.all[i]
		if err := l.conn.Control(l.look); err != nil {
			ls.all = slices.Delete(ls.all, i, i+1)
			continue
		}
		share = max(share, l.share)
	}
	return share
}

func (ls *listeners) any() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.all) > 0
}

// queueReader reads the accept queues.
type queueReader struct{ host *host }

func (q queueReader) read(v *values, now time.Time) error {
	v[0] = q.host.listeners.fullest()
	if v[0] >= DefaultAcceptQueue.Lo {
		q.host.queued = now
	}
	return nil
}

func (q queueReader) close() {}

var errNoSocket = errors.New("the listener has no socket")

// RawConn finds the socket of a listener, also of one that is wrapped in structs
// with a field Listener, as Caddy's are.
func RawConn(ln net.Listener) (syscall.RawConn, error) {
	for range 16 { // wrappers may be nested, but not without end
		if c, ok := ln.(syscall.Conn); ok {
			return c.SyscallConn()
		}
		inner, ok := unwrapListener(ln)
		if !ok {
			break
		}
		ln = inner
	}
	return nil, errNoSocket
}

// unwrapListener looks into a struct, whatever its type: Caddy's are not exported.
func unwrapListener(ln net.Listener) (net.Listener, bool) {
	v := reflect.Indirect(reflect.ValueOf(ln))
	if v.Kind() != reflect.Struct {
		return nil, false
	}
	field, ok := v.Type().FieldByName("Listener")
	if !ok {
		return nil, false
	}
	f, err := v.FieldByIndexErr(field.Index)
	if err != nil || !f.CanInterface() {
		return nil, false
	}
	inner, ok := f.Interface().(net.Listener)
	return inner, ok && inner != nil
}
