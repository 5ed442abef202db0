// SPDX-License-Identifier: Apache-2.0

// Asking an origin's agent.

package pressure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// AgentTimeout is how long asking takes at most; less if the context says so.
const AgentTimeout = 5 * time.Second

// CheckAgent asks an agent over TCP and takes its answer into what it had said
// before. send, as HAProxy's agent-send, is sent first if it is not empty. After
// an error the state is as before: an agent that cannot be reached says nothing
// about its origin.
func CheckAgent(ctx context.Context, address, send string, before AgentState) (AgentState, error) {
	ctx, cancel := context.WithTimeout(ctx, AgentTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return before, fmt.Errorf("asking the agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if send != "" {
		if _, err := io.WriteString(conn, send); err != nil {
			return before, fmt.Errorf("asking the agent: sending: %w", err)
		}
	}
	line, err := readAgentLine(conn)
	if err != nil {
		return before, fmt.Errorf("asking the agent: %w", err)
	}
	return before.ParseAgent(line)
}

var errNoLine = errors.New("no line in its answer")

// readAgentLine reads up to the end of a line, or of the answer.
func readAgentLine(r io.Reader) (string, error) {
	buf := make([]byte, maxAgentLine)
	for n := 0; n < len(buf); {
		got, err := r.Read(buf[n:])
		n += got
		if i := bytes.IndexAny(buf[:n], "\r\n"); i >= 0 {
			return string(buf[:i]), nil
		}
		if err == io.EOF && n > 0 {
			return string(buf[:n]), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", errNoLine
}
