package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestFramesPass(t *testing.T) {
	var b bytes.Buffer
	c := NewConn(&b)
	if err := c.WriteJSON(Exit, Outcome{Code: 3}); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", MaxPayload+1)
	if n, err := c.Writer(Stdout).Write([]byte(big)); n != len(big) || err != nil {
		t.Fatalf("write of more than a frame holds: %d, %v", n, err)
	}
	if err := c.Write(Input, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind    Kind
		payload string
	}{
		{Exit, `{"code":3}`},
		{Stdout, big[:MaxPayload]},
		{Stdout, "x"},
		{Input, ""},
	} {
		kind, payload, err := c.Read()
		if err != nil || kind != want.kind || string(payload) != want.payload {
			t.Fatalf("read %q with %d bytes, %v; want %q with %d", kind, len(payload), err, want.kind, len(want.payload))
		}
	}
}

func TestFramesFromOutOfStep(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":           "",
		"half a header":     "1\x00\x00",
		"half a payload":    "1\x00\x00\x00\x05ab",
		"too long":          "1\x00\x01\x00\x01",
		"the middle of one": "some output of a command",
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := NewConn(bytes.NewBufferString(in)).Read(); err == nil {
				t.Error("read succeeded")
			}
		})
	}
	if err := NewConn(&bytes.Buffer{}).Write(Input, make([]byte, MaxPayload+1)); err == nil {
		t.Error("a frame that is too long was sent")
	}
}
