// SPDX-License-Identifier: Apache-2.0

// Package demo shows what Reset Guard does: it sends the same traffic through
// stock reverse_proxy and through reset_guard, to origins of which one
// misbehaves, and compares what clients saw. This file is its command.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "reset-guard",
		Usage: "<command>",
		Short: "Commands of Reset Guard",
		Long: `
Commands of Reset Guard, which makes Caddy keep answering while origins reset
their connections.
`,
		CobraFunc: func(cmd *cobra.Command) {
			// Whoever asks for nothing, or for what does not exist, is told what does.
			cmd.Args = cobra.NoArgs
			cmd.DisableFlagsInUseLine = true
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(newCommand())
		},
	})
}

const long = `Compares stock reverse_proxy with reset_guard: starts three origins and a Caddy
with two sites in this process, on 127.0.0.1, lets one of the origins misbehave,
and sends the same requests through both sites. It prints a table: for each
fault what the clients saw, whether a POST was executed twice, and how long they
waited. Nothing is written to the disk.

It fails if reset_guard did worse than reverse_proxy, or let a POST without a key
be executed twice. It ends after a minute at the latest, or with Ctrl-C.`

// newCommand makes "caddy reset-guard demo".
func newCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:     "demo [--faults <names>] [--requests <n>] [--probability <p>] [--seed <n>] [--quick] [--json]",
		Short:   "Compares reverse_proxy with reset_guard while an origin misbehaves",
		Long:    long,
		Example: "  caddy reset-guard demo --quick\n  caddy reset-guard demo --faults reset_in_body,stall_before_headers --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := f.options(cmd.Flags().Changed("requests"))
			if err != nil {
				return err
			}
			return f.run(cmd, opts)
		},
		// Usage does not help whoever gave the right flags.
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().IntVar(&f.requests, "requests", defaultRequests, "Requests to each proxy for each fault")
	cmd.Flags().StringSliceVar(&f.faults, "faults", nil, "Faults to show, separated by commas (default: "+defaultNames()+")")
	cmd.Flags().Float64Var(&f.probability, "probability", 1, "How often the faulty origin misbehaves, over 0 and up to 1")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "Start of the random sequences; the same seed gives the same requests")
	cmd.Flags().BoolVar(&f.quick, "quick", false, fmt.Sprintf("Send %d requests for each fault, in some seconds for all", quickRequests))
	cmd.Flags().BoolVar(&f.json, "json", false, "Print the result as JSON")
	return cmd
}

func defaultNames() string {
	var names []string
	for _, f := range defaultFaults(1) {
		names = append(names, string(f))
	}
	return strings.Join(names, ",")
}

// flags are the command line.
type flags struct {
	requests    int
	faults      []string
	probability float64
	seed        uint64
	quick, json bool
}

// options turns the command line into a run. --quick lowers the number of
// requests unless that was given as well.
func (f *flags) options(requestsGiven bool) (options, error) {
	faults, err := parseFaults(f.faults, f.probability)
	if err != nil {
		return options{}, fmt.Errorf("--faults: %w", err)
	}
	opts := options{requests: f.requests, faults: faults, seed: f.seed, probability: f.probability, limit: defaultLimit}
	if f.quick {
		opts.limit = quickLimit
		if !requestsGiven {
			opts.requests = quickRequests
		}
	}
	return opts, nil
}

// errWorse makes the command fail when the guard did.
var errWorse = errors.New("reset_guard did worse than it may; see the problems above, and please report them with the seed and the whole output")

// errInterrupted is why a run ends that somebody does not want any more.
var errInterrupted = errors.New("interrupted")

func (f *flags) run(cmd *cobra.Command, opts options) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(sig)
	go func() {
		select {
		case <-sig:
			signal.Stop(sig) // a second one ends the process at once
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	rep, err := run(ctx, opts, newProgress(cmd.ErrOrStderr(), opts))
	return f.finish(cmd.OutOrStdout(), rep, err)
}

// finish prints what there is, even of a run that failed, and says whether the
// command has.
func (f *flags) finish(w io.Writer, rep *report, err error) error {
	if err != nil && len(rep.rows) == 0 {
		return err
	}
	write := rep.writeTable
	if f.json {
		write = rep.writeJSON
	}
	err = errors.Join(err, write(w))
	if err == nil && len(rep.problems()) > 0 {
		return errWorse
	}
	return err
}
