package tunnel

import (
	"context"
	"net/netip"
	"testing"
)

const manyPeers = 5000

func many(first string) []netip.Addr {
	var all []netip.Addr
	for a := netip.MustParseAddr(first); len(all) < manyPeers; a = a.Next() {
		all = append(all, a)
	}
	return all
}

// BenchmarkPeers measures a node with both devices and 5000 peers, each with
// addresses of both families.
func BenchmarkPeers(b *testing.B) {
	l := newLab(b, 1)
	v := l.nodes[0]
	peers := append(many("198.18.0.1"), many("2001:db8:1::1")...)
	set := func(b *testing.B, c Config) {
		if _, err := v.table.Set(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
	none, all := l.both(v), l.both(v)
	none.Peers, all.Peers = nil, peers
	b.Run("all new", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			set(b, none)
			b.StartTimer()
			set(b, all)
		}
	})
	b.Run("nothing new", func(b *testing.B) {
		set(b, all)
		for b.Loop() {
			set(b, all)
		}
	})
	b.Run("one added", func(b *testing.B) {
		set(b, all)
		for b.Loop() {
			if err := v.table.AddPeers(peers[:1]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all added", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			set(b, none)
			b.StartTimer()
			if err := v.table.AddPeers(peers); err != nil {
				b.Fatal(err)
			}
		}
	})
}
