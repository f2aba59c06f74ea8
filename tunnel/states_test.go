package tunnel

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestTransitions goes from state to state at random. What there is must not
// depend on what was before.
func TestTransitions(t *testing.T) {
	l := newLab(t, 3)
	v := l.nodes[0]
	v.ip("addr add 192.0.2.101/24 dev eth0")
	change := func(f func(c *Config)) Config {
		c := l.both(v)
		f(&c)
		return c
	}
	states := []Config{
		{},
		l.both(v),
		change(func(c *Config) { c.Devices = c.Devices[:1] }),
		change(func(c *Config) { c.Devices = c.Devices[1:] }),
		change(func(c *Config) { c.Peers = nil }),
		change(func(c *Config) { c.Peers = c.Peers[2:4] }),
		change(func(c *Config) { c.Devices[0].VNI, c.Devices[1].VNI = 5, 6 }),
		change(func(c *Config) { c.Devices[0].Port = 8472 }),
		change(func(c *Config) { c.Devices[0].MTU, c.Devices[1].MTU = 1000, 1280 }),
		change(func(c *Config) { c.Devices[0].Addresses, c.Devices[1].Addresses = nil, nil }),
		change(func(c *Config) {
			c.Devices[0].Addresses = append(c.Devices[0].Addresses, netip.MustParseAddr("fd00:1::3e"))
		}),
		change(func(c *Config) { c.Devices[0].Local = netip.MustParseAddr("192.0.2.101") }),
	}
	fresh := make([]string, len(states))
	for i, c := range states {
		v.set(Config{})
		v.set(c)
		fresh[i] = v.dump()
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	from := len(states) - 1
	for range 40 {
		to := r.IntN(len(states))
		v.set(states[to])
		if got := v.dump(); got != fresh[to] {
			t.Fatalf("seed %d: from state %d to %d:\n%s\nnot\n%s", seed, from, to, got, fresh[to])
		}
		v.quiet()
		from = to
	}
}
