package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"time"
)

// Variable is the environment variable by which a program learns that it is to
// call Serve instead of what it else does.
const Variable = "GODWIT_TRAFFIC_STREAMS"

// Spec is a stream to open.
type Spec struct {
	Name string
	From string // network namespace
	To   string // network namespace
	Addr netip.Addr
}

// Outcome is what became of a stream.
type Outcome struct {
	Name string
	Result
	Error string
}

// answer is one line from the process with the streams.
type answer struct {
	Longest  time.Duration `json:",omitempty"`
	Outcomes []Outcome     `json:",omitempty"`
	Error    string        `json:",omitempty"`
}

// Streams are streams in a process of their own, so that what the caller is
// busy with does not look like a stall of the network.
type Streams struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *json.Decoder
}

// Spawn runs a program that calls Serve when Variable is set, and returns when
// all streams are established.
func Spawn(ctx context.Context, program string, specs []Spec) (*Streams, error) {
	raw, err := json.Marshal(specs)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program) // #nosec G204 -- the caller's own program
	cmd.Env = append(os.Environ(), Variable+"="+string(raw))
	cmd.Stderr = os.Stderr
	s := &Streams{cmd: cmd}
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = json.NewDecoder(stdout)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := s.answer(); err != nil {
		_ = s.stdin.Close()
		return nil, errors.Join(err, cmd.Wait())
	}
	return s, nil
}

func (s *Streams) answer() (answer, error) {
	var a answer
	if err := s.out.Decode(&a); err != nil {
		return a, fmt.Errorf("process with the streams: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// Mark returns the longest time that any stream was without an arrival since
// the last mark, and sets a new one.
func (s *Streams) Mark() (time.Duration, error) {
	if _, err := io.WriteString(s.stdin, "mark\n"); err != nil {
		return 0, err
	}
	a, err := s.answer()
	return a.Longest, err
}

// Stop ends the streams in order, and tells what became of each.
func (s *Streams) Stop() ([]Outcome, error) {
	if err := s.stdin.Close(); err != nil {
		return nil, err
	}
	a, err := s.answer()
	return a.Outcomes, errors.Join(err, s.cmd.Wait())
}

// Serve is the other end of Spawn: it opens the streams that the variable
// names, answers each line of in with the longest stall, and at its end stops
// the streams.
func Serve(variable string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	enc := json.NewEncoder(out)
	streams, err := startAll(ctx, variable)
	if err != nil {
		return enc.Encode(answer{Error: err.Error()})
	}
	if err := enc.Encode(answer{}); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var longest time.Duration
		for _, s := range streams {
			longest = max(longest, s.Mark())
		}
		if err := enc.Encode(answer{Longest: longest}); err != nil {
			return err
		}
	}
	var all []Outcome
	for _, s := range streams {
		r, err := s.Stop()
		o := Outcome{Name: s.Name, Result: r}
		if err != nil {
			o.Error = err.Error()
		}
		all = append(all, o)
	}
	return enc.Encode(answer{Outcomes: all})
}

func startAll(ctx context.Context, variable string) ([]*Stream, error) {
	var specs []Spec
	if err := json.Unmarshal([]byte(variable), &specs); err != nil {
		return nil, err
	}
	var streams []*Stream
	for _, p := range specs {
		s, err := Start(ctx, p.Name, p.From, p.To, p.Addr)
		if err != nil {
			return nil, err
		}
		streams = append(streams, s)
	}
	return streams, nil
}
