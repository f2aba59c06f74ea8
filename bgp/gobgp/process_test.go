package gobgp

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
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// A speaker in a process of its own, in a namespace of its own: the test
// binary runs itself with processVar set, and the two talk in JSON lines.

const processVar = "GODWIT_TEST_SPEAKER"

type request struct {
	Set      *bgp.Config
	Sessions bool
	// Announced is not nil where it is asked.
	Announced []netip.Prefix
	Stop      *bgp.StopMode
	Panic     bool // in a goroutine of which nobody knows, as GoBGP's are
}

type answer struct {
	// of the sink
	Changed []bgp.Route
	Gone    []netip.Prefix
	InSync  bool
	// to a request
	Reply     bool
	Error     string
	Peer      string // that Error concerns, if it is a *bgp.PeerError
	Sessions  []bgp.Session
	Announced []netip.Prefix
}

// mode is how a child begins.
type mode struct {
	Restarting  bool
	SyncTimeout time.Duration
}

// speakerProcess is the child's main.
func speakerProcess() error {
	out := newEncoder(os.Stdout)
	var m mode
	if err := json.Unmarshal([]byte(os.Getenv(processVar)), &m); err != nil {
		return err
	}
	s, err := New(Options{Sink: out, Restarting: m.Restarting, SyncTimeout: m.SyncTimeout})
	if err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var r request
		if err := in.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a := answer{Reply: true}
		var err error
		switch {
		case r.Set != nil:
			err = s.Set(context.Background(), *r.Set)
		case r.Stop != nil:
			err = s.Stop(context.Background(), *r.Stop)
		case r.Sessions:
			a.Sessions, err = s.Sessions(context.Background())
		case r.Announced != nil:
			a.Announced, err = s.Announced(context.Background(), r.Announced)
		case r.Panic:
			go panic("a panic that the test asked for")
			select {}
		}
		if err != nil {
			a.Error = err.Error()
			var pe *bgp.PeerError
			if errors.As(err, &pe) {
				a.Peer = pe.Peer
			}
		}
		out.write(a)
	}
}

// encoder is the child's sink.
type encoder struct {
	lines chan answer
}

func newEncoder(w io.Writer) *encoder {
	e := &encoder{lines: make(chan answer)}
	go func() {
		enc := json.NewEncoder(w)
		for a := range e.lines {
			_ = enc.Encode(a)
		}
	}()
	return e
}

func (e *encoder) write(a answer) { e.lines <- a }

func (e *encoder) Learned(changed []bgp.Route, gone []netip.Prefix) {
	e.write(answer{Changed: changed, Gone: gone})
}

func (e *encoder) InSync() { e.write(answer{InSync: true}) }

// child is the parent's view of a speaker process. It is a bgp.Speaker.
type child struct {
	t       testing.TB
	sink    *sink // of startChild
	to      bgp.Sink
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan answer
	dead    chan struct{}
}

var _ bgp.Speaker = (*child)(nil)

func startChild(t testing.TB, netns string, restarting bool) *child {
	t.Helper()
	to := newSink()
	c := startChildWith(t, netns, mode{Restarting: restarting, SyncTimeout: 15 * time.Second}, to)
	c.sink = to
	return c
}

func startChildWith(t testing.TB, netns string, m mode, to bgp.Sink) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	how, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, to: to, replies: make(chan answer, 1), dead: make(chan struct{})}
	c.cmd = exec.Command("ip", "netns", "exec", netns, self)
	c.cmd.Env = append(os.Environ(), processVar+"="+string(how))
	c.cmd.Stderr = os.Stderr
	c.in, err = c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read(out)
	t.Cleanup(c.kill)
	return c
}

func (c *child) read(out io.Reader) {
	defer close(c.dead)
	d := json.NewDecoder(bufio.NewReader(out))
	for {
		var a answer
		if err := d.Decode(&a); err != nil {
			_ = c.cmd.Wait()
			return
		}
		switch {
		case a.Reply:
			c.replies <- a
		case a.InSync:
			c.to.InSync()
		default:
			c.to.Learned(a.Changed, a.Gone)
		}
	}
}

// kill ends the process as SIGKILL does: nobody is told.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.dead
}

// panics has a goroutine of the process panic, which ends it.
func (c *child) panics() {
	c.t.Helper()
	if _, err := c.ask(request{Panic: true}); err == nil {
		c.t.Fatal("the process outlives a panic")
	}
	<-c.dead
}

func (c *child) ask(r request) (answer, error) {
	if err := json.NewEncoder(c.in).Encode(r); err != nil {
		return answer{}, err
	}
	select {
	case a := <-c.replies:
		switch {
		case a.Peer != "":
			return a, &bgp.PeerError{Peer: a.Peer, Err: errors.New(a.Error)}
		case a.Error != "":
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-c.dead:
		return answer{}, errors.New("the speaker's process is dead")
	case <-time.After(patience):
		return answer{}, fmt.Errorf("no answer to %+v", r)
	}
}

func (c *child) Set(_ context.Context, conf bgp.Config) error {
	_, err := c.ask(request{Set: &conf})
	return err
}

func (c *child) Sessions(context.Context) ([]bgp.Session, error) {
	a, err := c.ask(request{Sessions: true})
	return a.Sessions, err
}

func (c *child) Announced(_ context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	a, err := c.ask(request{Announced: prefixes})
	return a.Announced, err
}

func (c *child) Stop(_ context.Context, mode bgp.StopMode) error {
	_, err := c.ask(request{Stop: &mode})
	return err
}
