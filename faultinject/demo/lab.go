// SPDX-License-Identifier: Apache-2.0

// This file sets up what the traffic meets: three origins, and one Caddy with
// two sites before them.

package demo

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the Caddyfile adapter
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	_ "github.com/resetguard/caddy-resetguard/caddymodule" // the directive reset_guard
	"github.com/resetguard/caddy-resetguard/faultinject"
)

// way is how a request is sent.
type way int

const (
	direct  way = iota // to a healthy origin, without a proxy
	plain              // through stock reverse_proxy
	guarded            // through reset_guard
	ways
)

func (w way) String() string {
	return [...]string{"direct", "reverse_proxy", "reset_guard"}[w]
}

// headerTimeout is response_header_timeout in both sites: stock Caddy waits
// without end, and a comparison of that with anything tells nothing.
const headerTimeout = 500 * time.Millisecond

// sites is the Caddyfile: two sites that differ in one word. Nothing is written
// to the disk, and nothing to the terminal, which is for the table.
const sites = `{
	admin off
	persist_config off
	storage_check off
	storage_clean_interval off
	auto_https off
	grace_period 1s
	log default {
		output discard
	}
}
(demo) {
	{args[0]} %[3]s {
		lb_policy round_robin
		transport http {
			response_header_timeout %[4]v
		}
	}
}
http://%[1]s {
	import demo reverse_proxy
}
http://%[2]s {
	import demo reset_guard
}
`

// lab is the origins and the Caddy for one fault.
type lab struct {
	origins []*faultinject.Origin // the first one is at fault
	base    [ways]string          // where each way begins: scheme, host and port
}

// openLab starts all. Only one can be open in a process, because Caddy runs
// one configuration in a process.
func openLab(fault faultinject.Fault, probability float64, seed uint64) (*lab, error) {
	l, c := new(lab), circumstancesOf(fault)
	const tag = `"1"` // as origins of files have
	configs := []faultinject.Config{
		{Name: "faulty", Fault: c.fault, After: c.after, Probability: probability, Seed: seed, ETag: tag},
		{Name: "healthy-1", ETag: tag},
		{Name: "healthy-2", ETag: tag},
	}
	for _, cfg := range configs {
		o, err := faultinject.Start(cfg)
		if err != nil {
			l.closeOrigins()
			return nil, err
		}
		l.origins = append(l.origins, o)
	}
	l.base[direct] = l.origins[1].URL()
	if err := l.startCaddy(); err != nil {
		l.closeOrigins()
		return nil, err
	}
	return l, nil
}

// portTries is how often other ports are tried: between choosing one and
// listening on it, another process may take it.
const portTries = 3

func (l *lab) startCaddy() (err error) {
	for range portTries {
		var addrs []string
		if addrs, err = freeAddrs(2); err != nil {
			return fmt.Errorf("looking for two free ports on 127.0.0.1: %w; see that the loopback interface is up", err)
		}
		if err = loadCaddy(l.caddyfile(addrs)); err == nil {
			l.base[plain], l.base[guarded] = "http://"+addrs[0], "http://"+addrs[1]
			return nil
		}
	}
	return err
}

func (l *lab) caddyfile(addrs []string) string {
	var upstreams []string
	for _, o := range l.origins {
		upstreams = append(upstreams, o.Addr())
	}
	return fmt.Sprintf(sites, addrs[0], addrs[1], strings.Join(upstreams, " "), headerTimeout)
}

// loadCaddy runs the Caddyfile. What Caddy logs before the log is off goes there
// as well, or to the terminal if it does not start.
func loadCaddy(caddyfile string) error {
	_, before, _ := caddy.BufferedLog()
	defer caddy.UnbufferDefaultLogger(before)
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": "demo"})
	if err != nil {
		return fmt.Errorf("adapting the demo's Caddyfile: %w; this is a bug of the demo", err)
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("starting Caddy on two free ports of 127.0.0.1: %w; try again, the ports are chosen anew", err)
	}
	return nil
}

// freeAddrs finds n addresses that nobody listens on.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // only now, so that no two are the same
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// close stops Caddy and the origins and waits for them.
func (l *lab) close() error {
	err := caddy.Stop()
	l.closeOrigins()
	if err != nil {
		return fmt.Errorf("stopping the demo's Caddy: %w", err)
	}
	return nil
}

func (l *lab) closeOrigins() {
	for _, o := range l.origins {
		o.Close()
	}
}

// executions is how often origins may have acted on a request.
func (l *lab) executions(id string) (n int) {
	for _, o := range l.origins {
		n += o.Executions(id)
	}
	return n
}

// tryFault tells whether an origin as in the lab can have the fault.
func tryFault(fault faultinject.Fault, probability float64) error {
	o, err := faultinject.Start(faultinject.Config{Fault: fault, Probability: probability})
	if err != nil {
		return errors.Unwrap(err)
	}
	o.Close()
	return nil
}
