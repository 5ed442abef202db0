// SPDX-License-Identifier: Apache-2.0

package faultinject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// isStreamError is a reset of the stream with this code.
func isStreamError(code http2.ErrCode) func(error) bool {
	return func(err error) bool {
		var se http2.StreamError
		return errors.As(err, &se) && se.Code == code
	}
}

func TestH2FaultsOverNetHTTP(t *testing.T) {
	short := 20 * time.Millisecond
	for _, row := range []struct {
		fault Fault
		is    func(error) bool
		body  int // bytes of the answer that came through
	}{
		// These two net/http would try again if it could.
		{RefusedStream, saying("REFUSED_STREAM; received from peer"), 0},
		{StreamProtocolError, saying("PROTOCOL_ERROR; received from peer"), 0},
		{StreamCancel, isStreamError(http2.ErrCodeCancel), 0},
		{StreamInternalError, isStreamError(http2.ErrCodeInternal), 0},
		{StreamCalm, isStreamError(http2.ErrCodeEnhanceYourCalm), 0},
		{StreamResetInBody, isStreamError(http2.ErrCodeInternal), 1000},
		{StreamCancelInBody, isStreamError(http2.ErrCodeCancel), 1000},
		{StreamCalmInBody, isStreamError(http2.ErrCodeEnhanceYourCalm), 1000},
		{GoAwayCalmInBody, saying("ErrCode=ENHANCE_YOUR_CALM"), 1000},
		{H2ConnLost, isReset, 0},
		{GoAwayCalm, saying("ErrCode=ENHANCE_YOUR_CALM"), 0},
		{GoAway, saying("graceful shutdown GOAWAY"), 0},
		{ResetOnAccept, isGone, 0},
		{CloseOnAccept, isGone, 0},
		{ResetAfterHeader, isGone, 0},
		{ResetInUpload, isGone, 0},
		{CloseInUpload, isGone, 0},
		{ResetAfterRequest, isReset, 0},
		{CloseAfterRequest, isClosed, 0},
		{ResetInHeaders, isReset, 0},
		{CloseInHeaders, isClosed, 0},
		{ResetInBody, isReset, 1000},
		{CloseInBody, isClosed, 1000},
		{Garbage, saying("frame too large"), 0},
		{BadHeader, saying("invalid header field name"), 0},
		{StallBeforeHeaders, isStreamError(http2.ErrCodeCancel), 0},
		{StallInHeaders, isClosed, 0},
		{StallInBody, isStreamError(http2.ErrCodeCancel), 1000},
	} {
		for _, p := range []Protocol{H2, H2C} {
			t.Run(string(p)+"/"+string(row.fault), func(t *testing.T) {
				t.Parallel()
				o := start(t, Config{Protocol: p, Fault: row.fault, StallFor: short})
				// Small, so that the client has no window to give back, and
				// writes nothing, when the connection breaks.
				body := struct{ io.Reader }{bytes.NewReader(Bytes(10_000))}
				_, got, err := do(client(t, o), "POST", o.URL()+"/bytes/2000", body)
				if err == nil || !row.is(err) {
					t.Errorf("got %v", err)
				}
				if !bytes.Equal(got, Bytes(row.body)) {
					t.Errorf("body: got %d bytes, want the first %d", len(got), row.body)
				}
			})
		}
	}
}

// TestGoAwayInBody: what was begun is finished, and counts as executed.
func TestGoAwayInBody(t *testing.T) {
	for _, p := range []Protocol{H2, H2C} {
		o := start(t, Config{Protocol: p, Fault: GoAwayInBody})
		c := client(t, o)
		for range 2 {
			if _, got, err := do(c, "GET", o.URL()+"/bytes/2000", nil); err != nil || !bytes.Equal(got, Bytes(2000)) {
				t.Errorf("%s: got %d bytes and %v", p, len(got), err)
			}
		}
		if o.Accepted() != 2 {
			t.Errorf("%s: got %d connections, want one for each request", p, o.Accepted())
		}
	}
}

// frames is a client that speaks HTTP/2 by hand.
type frames struct {
	*http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func speakH2(t *testing.T, o *Origin) *frames {
	t.Helper()
	c := dial(t, o)
	f := &frames{Framer: http2.NewFramer(c, c)}
	f.enc = hpack.NewEncoder(&f.buf)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.WriteSettings(), f.WriteSettingsAck()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *frames) request(t *testing.T, id uint32, method, path string, last bool) {
	t.Helper()
	f.buf.Reset()
	for _, h := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"x-request-id", fmt.Sprint(id)}} {
		_ = f.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.buf.Bytes(), EndHeaders: true, EndStream: last})
	if err != nil {
		t.Fatal(err)
	}
}

// heard lists the frames until the connection ends, in words.
func (f *frames) heard(t *testing.T) string {
	t.Helper()
	var s []string
	for {
		switch fr, err := f.ReadFrame(); fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			s = append(s, fmt.Sprintf("%d:%s", fr.StreamID, fr.PseudoValue("status")))
		case *http2.DataFrame:
			if fr.StreamEnded() {
				s = append(s, fmt.Sprintf("%d:end", fr.StreamID))
			}
		case *http2.RSTStreamFrame:
			s = append(s, fmt.Sprintf("%d:%s", fr.StreamID, fr.ErrCode))
		case *http2.GoAwayFrame:
			s = append(s, fmt.Sprintf("GOAWAY %d %s", fr.LastStreamID, fr.ErrCode))
		case nil:
			return strings.Join(append(s, err.Error()), ", ")
		}
	}
}

func TestGoAwayLetsEarlierStreamsEnd(t *testing.T) {
	o := start(t, Config{Protocol: H2C})
	f := speakH2(t, o)
	f.request(t, 1, "POST", "/", false)
	waitFor(t, "the first stream", func() bool { return o.Requests() == 1 })
	if err := o.SetFault(GoAway, 1); err != nil {
		t.Fatal(err)
	}
	f.request(t, 3, "POST", "/", false)
	waitFor(t, "the second stream", func() bool { return o.Requests() == 2 })
	if err := f.WriteData(1, true, []byte("rest of the first")); err != nil {
		t.Fatal(err)
	}
	if got, want := f.heard(t), "GOAWAY 1 NO_ERROR, 1:200, 1:end, EOF"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a, b := o.Executions("1"), o.Executions("3"); a != 1 || b != 0 {
		t.Errorf("executions: got %d, %d, want 1, 0", a, b)
	}
}

func TestGoAwayCalmIncludesTheStream(t *testing.T) {
	o := start(t, Config{Protocol: H2C, Fault: GoAwayCalm})
	f := speakH2(t, o)
	f.request(t, 1, "POST", "/", true)
	if got, want := f.heard(t), "GOAWAY 1 ENHANCE_YOUR_CALM, EOF"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestConnectionLostWithStreamsOpen(t *testing.T) {
	o := start(t, Config{Protocol: H2C})
	f := speakH2(t, o)
	f.request(t, 1, "POST", "/", false)
	waitFor(t, "the first stream", func() bool { return o.Requests() == 1 })
	if err := o.SetFault(H2ConnLost, 1); err != nil {
		t.Fatal(err)
	}
	f.request(t, 3, "GET", "/", true)
	if got := f.heard(t); !strings.Contains(got, "reset") {
		t.Errorf("got %s, want a reset and nothing before it", got)
	}
}

func TestStalledStreamLeavesOthersAlone(t *testing.T) {
	o := start(t, Config{Protocol: H2C, Fault: StallInBody, StallFor: time.Hour})
	c := client(t, o)
	stalled, err := c.Get(o.URL() + "/bytes/1000")
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Body.Close()
	if err := o.SetFault(None, 1); err != nil {
		t.Fatal(err)
	}
	if _, body, err := do(c, "GET", o.URL()+"/bytes/100000", nil); err != nil || len(body) != 100_000 {
		t.Errorf("got %d bytes, %v, want all", len(body), err)
	}
	if n := o.Accepted(); n != 1 {
		t.Errorf("connections: got %d, want 1", n)
	}
}

func TestH2IdleConnections(t *testing.T) {
	for fault, want := range map[Fault]string{ResetIdle: "reset", CloseIdle: "EOF"} {
		o := start(t, Config{Protocol: H2C, Fault: fault, IdleFor: 10 * time.Millisecond})
		f := speakH2(t, o)
		f.request(t, 1, "GET", "/", true)
		if got := f.heard(t); !strings.HasPrefix(got, "1:200, 1:end, ") || !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want a whole answer and then %s", fault, got, want)
		}
	}
}

func TestH2ClientThatResets(t *testing.T) {
	o := start(t, Config{Protocol: H2C, Fault: StallBeforeHeaders, StallFor: time.Hour})
	f := speakH2(t, o)
	f.request(t, 1, "GET", "/", true)
	waitFor(t, "the stream", func() bool { return o.Requests() == 1 })
	if err := f.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	if err := o.SetFault(CloseAfterRequest, 1); err != nil {
		t.Fatal(err)
	}
	f.request(t, 3, "GET", "/", true)
	if got := f.heard(t); !strings.HasSuffix(got, "EOF") {
		t.Errorf("got %s, want the connection's end", got)
	}
}

func TestH2Mistakes(t *testing.T) {
	o := start(t, Config{Protocol: H2C})
	t.Run("HTTP/1", func(t *testing.T) {
		if _, err := http.Get(o.URL()); err == nil {
			t.Error("got an answer, want none")
		}
	})
	t.Run("bad frame", func(t *testing.T) {
		f := speakH2(t, o)
		if err := f.WriteRawFrame(http2.FramePing, 0, 0, []byte("short")); err != nil {
			t.Fatal(err)
		}
		if got := f.heard(t); !strings.HasPrefix(got, "GOAWAY 0 FRAME_SIZE_ERROR") {
			t.Errorf("got %s, want GOAWAY", got)
		}
	})
	t.Run("too many streams", func(t *testing.T) {
		f := speakH2(t, o)
		for i := range uint32(h2MaxStreams + 1) {
			f.request(t, 2*i+1, "POST", "/", false)
		}
		if err := f.WriteGoAway(0, http2.ErrCodeNo, nil); err != nil {
			t.Fatal(err)
		}
		f.WriteRawFrame(http2.FramePing, 0, 0, []byte("short"))
		if got, want := f.heard(t), fmt.Sprintf("%d:REFUSED_STREAM, GOAWAY", 2*h2MaxStreams+1); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
