package podtest

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A client must notice what is lost, doubled or in the wrong order: the tests of
// the cluster rest upon it.

func TestLostDatagramsAreGaps(t *testing.T) {
	var e echoes
	for _, n := range []uint64{0, 1, 1, 5, 4, 5, 1 << 60} {
		e.note(n)
	}
	if e.count != 4 {
		t.Errorf("%d datagrams came back, want 4, for some came twice", e.count)
	}
	want := []Gap{{After: 2 * time.Millisecond, Count: 2}, {After: 6 * time.Millisecond, Count: 3}}
	if diff := cmp.Diff(want, e.gaps(9)); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}

func TestStreamIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		numbers []uint64
		rest    string
		err     string
	}{
		"whole":       {[]uint64{0, 1, 2}, "", ""},
		"out of line": {[]uint64{0, 2}, "", "message 2 came in the place of 1"},
		"torn":        {[]uint64{0}, "abc", "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			var b []byte
			for _, n := range c.numbers {
				b = binary.BigEndian.AppendUint64(b, n)
			}
			count, _, err := checkStream(bytes.NewReader(append(b, c.rest...)))
			switch {
			case c.err == "" && (err != nil || count != len(c.numbers)):
				t.Errorf("%d messages and error %v, want %d and none", count, err, len(c.numbers))
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	queries := 0
	go reply(conn, func(b []byte) []byte {
		const serverFailure = 2 // RFC 1035 section 4.1.1
		out := answer(b, "web-1")
		if queries++; queries == 2 {
			out[3] |= serverFailure
		}
		return out
	})
	if got, err := Resolve(t.Context(), conn.LocalAddr().String()); err != nil || got != "web-1" {
		t.Fatalf("answer %q (%v), want web-1", got, err)
	}
	if got, err := Resolve(t.Context(), conn.LocalAddr().String()); err == nil {
		t.Errorf("the first query failed, and still there is an answer: %q", got)
	}
}
