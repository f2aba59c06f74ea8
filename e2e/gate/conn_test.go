package gate

import (
	"io"
	"net"
	"testing"
	"time"
)

// pair is a connection through a gate, and its other end.
func pair(t *testing.T) (*Gate, *conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{conns: map[*conn]bool{}}
	c := newConn(raw, g)
	if !g.admit(c) {
		t.Fatal("an open gate admits nobody")
	}
	t.Cleanup(func() { c.reset(); g.done.Wait(); _ = far.Close() })
	if err := far.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return g, c, far
}

// What is said is heard later, all of it, in order, and what was said before a
// farewell, too; the speaker does not wait.
func TestDelay(t *testing.T) {
	const late = time.Second // the speaker has as long to say it
	g, c, far := pair(t)
	g.Delay(late)
	begin := time.Now()
	for _, word := range []string{"one ", "two ", "three"} {
		if _, err := c.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	said := time.Since(begin)
	got, err := io.ReadAll(far)
	if took := time.Since(begin); err != nil || string(got) != "one two three" || took < late || said >= late {
		t.Errorf("heard %q, %v after %v, said in %v; want it after %v", got, err, took, said, late)
	}
}

// A gate that is shut drops what is under way, and admits nobody.
func TestShut(t *testing.T) {
	g, c, far := pair(t)
	g.way = &listener{gate: g, opened: make(chan struct{})}
	g.Delay(time.Hour)
	if _, err := c.Write([]byte("never")); err != nil {
		t.Fatal(err)
	}
	g.Shut()
	if got, err := io.ReadAll(far); err == nil || len(got) > 0 {
		t.Errorf("heard %q, %v; want a reset", got, err)
	}
	if _, err := c.Write([]byte("more")); err == nil {
		t.Error("a connection that has ended takes more")
	}
	if g.admit(c) {
		t.Error("a gate that is shut admits somebody")
	}
}
