// Package router runs the lab's top-of-rack routers: real BIRD 2 and FRR
// daemons with real configurations, each in its own network namespace.
//
// Invariants:
//   - Nothing outside of a router's own directory is read or written, except
//     FRR's crash-log directory, which Stop removes.
//   - A router takes from the nodes only blocks of the pools, and announces to
//     them only the networks of its hosts.
//   - Next hops are of the family of what is announced, whatever the family of
//     the session.
package router

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/template"
	"time"

	"github.com/godwit-net/godwit/e2e/patience"
)

// Neighbor is an address of a node that a router speaks with.
type Neighbor struct {
	Name    string // unique among the neighbours; letters, digits and underscores
	Address netip.Addr
}

// Config is what a router is to do.
type Config struct {
	Name      string
	Netns     string
	Dir       string       // for its configuration, sockets and state; made when missing
	RouterID  netip.Addr   // IPv4 in form
	Addresses []netip.Addr // its own, one of each family
	ASN       uint32
	PeerASN   uint32
	Peers     []Neighbor // a session goes over the family of the neighbour's address
	// OneFamily lets each session carry the routes of the family that it goes over,
	// and no others. Else each carries those of all families of Addresses.
	OneFamily bool
	Password  string         // TCP MD5 (RFC 2385); empty: none
	Pools     []netip.Prefix // the nodes may announce blocks of them
	Announce  []netip.Prefix // the networks of its hosts, connected
	// AnnounceLinks are the interfaces of these networks.
	AnnounceLinks []string
	// NoGracefulRestart turns graceful restart (RFC 4724) off: the routes of a node go
	// when its session does.
	NoGracefulRestart bool
	Patience          patience.Factor
}

// family is one of the families that a router has, as its configuration needs
// to know it.
type family struct {
	V4       bool
	Address  netip.Addr // the router's own
	Pools    []netip.Prefix
	Announce []netip.Prefix
}

// group is the neighbours over one family, and what their sessions carry.
type group struct {
	Name    string
	Address netip.Addr // the router's own
	Peers   []Neighbor
	Carry   []family
}

// Families returns the families that the router has, in the order of its
// addresses.
func (c Config) Families() []family {
	var all []family
	for _, own := range c.Addresses {
		of := func(list []netip.Prefix) []netip.Prefix {
			return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p.Addr().Is4() != own.Is4() })
		}
		all = append(all, family{V4: own.Is4(), Address: own, Pools: of(c.Pools), Announce: of(c.Announce)})
	}
	return all
}

// Groups returns the neighbours by the family of their addresses.
func (c Config) Groups() []group {
	var all []group
	for _, own := range c.Families() {
		g := group{Name: "nodes", Address: own.Address, Carry: c.Families()}
		if !own.V4 {
			g.Name = "nodes6"
		}
		if c.OneFamily {
			g.Carry = []family{own}
		}
		for _, p := range c.Peers {
			if p.Address.Is4() == own.V4 {
				g.Peers = append(g.Peers, p)
			}
		}
		if len(g.Peers) > 0 {
			all = append(all, g)
		}
	}
	return all
}

// Router is a top-of-rack router.
type Router interface {
	// Start runs the router and returns when it takes commands.
	Start(ctx context.Context) error
	// Stop ends it; a router that does not run is no error.
	Stop(ctx context.Context) error
	// Kill ends it with SIGKILL, as a crash does: its peers see their connections
	// closed, and what it wrote into its kernel stays there.
	Kill(ctx context.Context) error
	// Sessions shuts the sessions with all nodes down, or lets them come up again, as
	// an operator would: the nodes are told so (RFC 4486), and graceful restart does
	// not apply.
	Sessions(ctx context.Context, up bool) error
	// Show asks the router's own command-line program, in its words.
	Show(ctx context.Context, command string) (string, error)
	// Neighbor asks for the state of one of the neighbours.
	Neighbor(ctx context.Context, n Neighbor) (State, error)
	// Blocks asks for the routes of a pool that the nodes announced, in the router's
	// words.
	Blocks(ctx context.Context, pool netip.Prefix) (title, view string, err error)
	// Program is its name and version.
	Program(ctx context.Context) string
}

func render(file, text string, c Config) error {
	t, err := template.New(filepath.Base(file)).Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, c); err != nil {
		return err
	}
	// FRR's daemons read theirs as a user of their own; a password in it is the lab's.
	return os.WriteFile(file, b.Bytes(), 0o644) // #nosec G306
}

func makeDir(dir string) error {
	return os.MkdirAll(dir, 0o755) // #nosec G301 -- FRR runs as its own user
}

// startTimeout is how long a program of a router may take until it answers.
const startTimeout = 15 * time.Second

// waitFor repeats a question until it is answered.
func waitFor(ctx context.Context, limit time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// find looks for a program, also in folders that are not in everyone's PATH.
func find(name string, more ...string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range append(more, "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s is not installed: install the packages bird2 and frr", name)
}
