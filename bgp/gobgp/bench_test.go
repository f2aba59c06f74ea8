package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// countingSink counts routes and says when all are there.
type countingSink struct {
	n    atomic.Int64
	want int64
	all  chan time.Time
}

func (s *countingSink) Learned(changed []bgp.Route, gone []netip.Prefix) {
	if s.n.Add(int64(len(changed)-len(gone))) == s.want {
		s.all <- time.Now()
	}
}

func (s *countingSink) InSync() {}

// BenchmarkLearn measures from a session that is up to the last route at the
// sink.
func BenchmarkLearn(b *testing.B) {
	for _, size := range []struct{ prefixes, hops int }{{5000, 2500}, {20000, 10000}} {
		b.Run(fmt.Sprintf("%dprefixes/%dhops", size.prefixes, size.hops), func(b *testing.B) {
			messages := sender.Table(size.prefixes, size.hops)
			for b.Loop() {
				b.StopTimer()
				took := learnOnce(b, messages, size.prefixes)
				b.ReportMetric(took.Seconds(), "s/table")
				b.StartTimer()
			}
		})
	}
}

func learnOnce(b *testing.B, messages []byte, prefixes int) time.Duration {
	s := &countingSink{want: int64(prefixes), all: make(chan time.Time, 1)}
	sp, err := New(Options{Sink: s})
	if err != nil {
		b.Fatal(err)
	}
	c := baseConfig(b)
	c.Blocks = []bgp.Range{rng("16.0.0.0/4", 26)}
	p := nodePeer("127.0.0.2", 1)
	p.MaxPrefixes = 100000
	c.Peers = []bgp.Peer{p}
	set(b, sp, c)
	r := newPeerAt(b, speakerAddr(c), internal("127.0.0.2"))
	session := r.connect()
	eventually(b, func() string {
		if one := sessionOf(b, sp, p.Name); one.State != bgp.StateEstablished {
			return fmt.Sprint(one)
		}
		return ""
	})
	begin := time.Now()
	if err := session.Send(messages); err != nil {
		b.Fatal(err)
	}
	var took time.Duration
	select {
	case at := <-s.all:
		took = at.Sub(begin)
	case <-time.After(patience):
		b.Fatalf("%d of %d routes after %v", s.n.Load(), prefixes, patience)
	}
	if err := sp.Stop(context.Background(), bgp.StopRestart); err != nil {
		b.Fatal(err)
	}
	r.breakOff()
	return took
}

// BenchmarkSetOnePeerOfHundred measures a change of one peer among a hundred
// that do not answer.
func BenchmarkSetOnePeerOfHundred(b *testing.B) {
	sp := start(b, Options{Sink: newSink()})
	c := baseConfig(b)
	for i := range 100 {
		c.Peers = append(c.Peers, nodePeer(fmt.Sprintf("127.0.1.%d", i+1), 1))
	}
	set(b, sp, c)
	for n := 0; b.Loop(); n++ {
		c.Peers = append([]bgp.Peer{}, c.Peers...)
		c.Peers[50].Hold = time.Duration(30+n%30) * time.Second
		set(b, sp, c)
	}
}

// BenchmarkSessions measures the report over a hundred peers.
func BenchmarkSessions(b *testing.B) {
	sp := start(b, Options{Sink: newSink()})
	c := baseConfig(b)
	for i := range 100 {
		c.Peers = append(c.Peers, nodePeer(fmt.Sprintf("127.0.1.%d", i+1), 1))
	}
	set(b, sp, c)
	for b.Loop() {
		if _, err := sp.Sessions(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
