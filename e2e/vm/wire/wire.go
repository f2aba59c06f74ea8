// Package wire is what the two sides of a virtual machine's wall say to each
// other: the settings that the guest finds when it boots, and the frames of a
// session, in which one command is run.
//
// A session goes over a serial port of the machine. The host asks for a
// greeting and gets Hello; it sends Start and, while the command runs, input and
// signals; the guest sends output and at last Exit. A port is a stream without
// beginning or end, and neither side may see at once that the other left it. So
// the guest passes over whatever comes between sessions but a Greet, and a Greet
// amid a session ends that; and a host that gets anything but a Hello first has
// come into the rest of another's session, hangs up, and comes again.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Kind tells what a frame is.
type Kind byte

// From the host.
const (
	Greet  Kind = 'G' // nothing
	Start  Kind = 'S' // Command
	Input  Kind = 'I' // bytes for the command's input; none: its end
	Signal Kind = 'K' // SignalNumber
	Resize Kind = 'W' // Size
)

// From the guest.
const (
	Hello  Kind = 'H' // Greeting
	Stdout Kind = '1' // bytes
	Stderr Kind = '2' // bytes
	Taken  Kind = 'T' // the last Input is with the command: send the next one
	Alive  Kind = 'A' // nothing new
	Exit   Kind = 'X' // Outcome
)

// MaxPayload is the largest payload of a frame.
const MaxPayload = 64 << 10

// AliveInterval is how often the guest shows that it lives while a command
// says nothing.
const AliveInterval = 2 * time.Second

// Greeting is the guest's answer to a Greet.
type Greeting struct {
	Protocol string `json:"protocol"`
}

// Protocol is what a Greeting must say. A machine that stays up may be met by
// a newer program.
const Protocol = "godwit-vm/1"

// Command is a program to run, found by the PATH of its environment.
type Command struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	// Terminal gives the command a terminal of that size.
	Terminal *Size `json:"terminal,omitempty"`
}

// Size is that of a terminal.
type Size struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// SignalNumber is a signal for the command's process group.
type SignalNumber struct {
	Number int `json:"number"`
}

// Outcome is how a command ended.
type Outcome struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"` // it could not be run at all
}

// Conn writes and reads frames. Writes may be concurrent.
type Conn struct {
	rw io.ReadWriter
	mu sync.Mutex
}

// NewConn returns a Conn over a stream.
func NewConn(rw io.ReadWriter) *Conn { return &Conn{rw: rw} }

const headerSize = 5

// Write sends one frame.
func (c *Conn) Write(k Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("frame %q of %d bytes is too long", k, len(payload))
	}
	// One write a frame: on the guest's side each is a trip to the host.
	frame := make([]byte, headerSize, headerSize+len(payload))
	frame[0] = byte(k)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.rw.Write(append(frame, payload...))
	return err
}

// WriteJSON sends one frame with a value as its payload.
func (c *Conn) WriteJSON(k Kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(k, payload)
}

// Read returns the next frame.
func (c *Conn) Read() (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.rw, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("frame of %d bytes: out of step with the other side", n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(c.rw, payload); err != nil {
		return 0, nil, fmt.Errorf("frame cut short: %w", err)
	}
	return Kind(header[0]), payload, nil
}

// Writer returns a writer whose bytes become frames of one kind.
func (c *Conn) Writer(k Kind) io.Writer { return writer{c, k} }

type writer struct {
	conn *Conn
	kind Kind
}

func (w writer) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		chunk := p[n:min(len(p), n+MaxPayload)]
		if err := w.conn.Write(w.kind, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return len(p), nil
}
