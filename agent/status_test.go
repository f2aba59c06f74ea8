package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
)

// patches counts the patches of a status, and lets them fail.
type patches struct {
	client.Client
	n   int
	err error
}

func (p *patches) Status() client.SubResourceWriter { return patchWriter{patches: p} }

type patchWriter struct {
	client.SubResourceWriter
	patches *patches
}

func (p patchWriter) Patch(context.Context, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
	p.patches.n++
	return p.patches.err
}

// TestStatusOfReflector has something new every second of one of 500 sessions: it
// is written once in 5 s.
func TestStatusOfReflector(t *testing.T) {
	p := &patches{}
	w := newStatusWriter(p, "n1")
	o := &observation{generation: 1, sessions: make([]bgp.Session, 500)}
	began := time.Unix(1700000000, 0)
	w.plan, w.planned = 1, began.Add(-settleStatus)
	for i := range 60 {
		o.sessions[i].State = bgp.StateEstablished
		if err := w.write(t.Context(), o, began.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if p.n != 12 {
		t.Errorf("written %d times in a minute, want 12", p.n)
	}
}

// TestStatusOfNewPlan has blocks and sessions come up one after the other: they
// are written in one.
func TestStatusOfNewPlan(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sessions time.Duration // when they are up
		want     time.Duration // when the first status is written
	}{
		{"at once", 0, 0},
		{"soon", 2 * time.Second, 2 * time.Second},
		{"late", time.Minute, settleStatus},
	} {
		p := &patches{}
		w := newStatusWriter(p, "n1")
		began := time.Unix(1700000000, 0)
		for at := time.Duration(0); p.n == 0 && at < time.Minute; at += time.Second {
			o := &observation{generation: 1, sessions: []bgp.Session{{State: bgp.StateActive}, {Kind: bgp.PeerExternal, State: bgp.StateActive}}}
			if at >= tt.sessions {
				o.sessions[0].State = bgp.StateEstablished
			}
			if err := w.write(t.Context(), o, began.Add(at)); err != nil {
				t.Fatal(err)
			}
			if written := p.n > 0; written != (at >= tt.want) {
				t.Errorf("%s: after %v written %t", tt.name, at, written)
			}
		}
	}
}

// TestStatusWhileWritesFail sees that an API server that has too much to do is
// asked more seldom, and at once again when it works.
func TestStatusWhileWritesFail(t *testing.T) {
	p := &patches{err: errors.New("timeout")}
	w := newStatusWriter(p, "n1")
	o := &observation{generation: 1}
	began := time.Unix(1700000000, 0)
	at := 0
	minutes := func(n int) (tries int) {
		p.n = 0
		for range n * 60 {
			if err := w.write(t.Context(), o, began.Add(time.Duration(at)*time.Second)); (err == nil) != (p.err == nil) {
				t.Fatalf("error %v, want %v", err, p.err)
			}
			at++
		}
		return p.n
	}
	// At most maxBackoff and a half lie between two tries, and in the mean maxBackoff.
	if n := minutes(1); n < 9 || n > 30 {
		t.Errorf("%d tries in the first minute", n)
	}
	if n := minutes(10); n < 100 || n > 200 {
		t.Errorf("%d tries in the next ten minutes", n)
	}
	w.next, p.err = time.Time{}, nil
	if n := minutes(1); n != 1 {
		t.Errorf("written %d times though it works and nothing is new", n)
	}
	o.generation++
	if n := minutes(1); n != 1 {
		t.Errorf("something new was written %d times", n)
	}
}

// A reflector of thousands of nodes that are all away says so in a message that
// the API takes.
func TestMessagesAreShort(t *testing.T) {
	o := &observation{}
	for i := range 5000 {
		o.sessions = append(o.sessions, bgp.Session{Name: fmt.Sprintf("node-%05d", i), Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), State: bgp.StateActive})
	}
	s := status(o, &v1alpha1.NodeNetworkStatus{}, metav1.Now())
	found := false
	for _, c := range s.Conditions {
		if len(c.Message) > maxMessage {
			t.Errorf("%s has a message of %d bytes", c.Type, len(c.Message))
		}
		found = found || strings.HasPrefix(c.Message, "not established: node-00000, ") && strings.HasSuffix(c.Message, " ...")
	}
	if !found {
		t.Errorf("no condition names the sessions: %v", s.Conditions)
	}
	if got := clip("as it is", maxMessage); got != "as it is" {
		t.Errorf("a short message becomes %q", got)
	}
}
