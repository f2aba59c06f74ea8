package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// Kernel is all that an agent does to its node's kernel. OpenKernel returns the
// real one; that of package agenttest is in memory. Both pass the same suite,
// agenttest.TestKernel.
type Kernel struct {
	Routes     RouteTable
	Tunnels    TunnelTable
	Masquerade MasqueradeTable
	Wirer      cni.Wirer
	Host       Host
}

// RouteTable keeps the node's routes; *routes.Table does.
type RouteTable interface {
	routeTable
	Wait(ctx context.Context, dst ...netip.Prefix) error
	Status() routes.Status
	Run(ctx context.Context) error
	Close() error
}

// TunnelTable keeps the node's tunnel devices; *tunnel.Table does.
type TunnelTable interface {
	peerAdder
	Set(ctx context.Context, c tunnel.Config) ([]tunnel.Status, error)
	Changed() <-chan struct{}
	Run(ctx context.Context) error
	Close() error
}

// MasqueradeTable keeps the node's masquerade rules; *nat.Table does.
type MasqueradeTable interface {
	Set(ctx context.Context, r nat.Rules) error
	Close() error
}

// Host is what an agent needs to know of its node, and to have it do, beside
// what the tables keep. Its methods may be called concurrently.
type Host interface {
	// Addresses finds those of the wanted addresses that are on the node's interfaces.
	Addresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error)
	// Forward makes the node a router for families. It is idempotent.
	Forward(v4, v6 bool) error
	// Watch tells of each link and each address of the node that changes, until ctx
	// ends, which is no error. What changed before is not told.
	Watch(ctx context.Context, link func(name string), address func(netip.Addr)) error
}

// OpenKernel opens the kernel's side of the network namespace that the calling
// thread is in; Host is that of the calling process's. sysctls is the folder of the
// kernel's network settings, such as wire.DefaultSysctls.
func OpenKernel(log *slog.Logger, sysctls string) (_ *Kernel, err error) {
	k := &Kernel{Host: host{sysctls: sysctls}}
	defer func() {
		if err != nil {
			_ = k.close()
		}
	}()
	// A nil *Table in an interface would be no nil interface.
	table, err := routes.Open(routes.Options{Log: log.With("part", "routes")})
	if err != nil {
		return nil, fmt.Errorf("open the route table: %w", err)
	}
	k.Routes = table
	tunnels, err := tunnel.Open(tunnel.Options{Log: log.With("part", "tunnel"), Sysctls: sysctls})
	if err != nil {
		return nil, fmt.Errorf("open the tunnels: %w", err)
	}
	k.Tunnels = tunnels
	masquerade, err := nat.Open()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	k.Masquerade = masquerade
	if k.Wirer, err = wire.New(wire.Options{Log: log.With("part", "wire"), Sysctls: sysctls}); err != nil {
		return nil, fmt.Errorf("open the pods' wiring: %w", err)
	}
	return k, nil
}

// close closes what is open. What is in the kernel stays.
func (k *Kernel) close() error {
	var errs []error
	if k.Masquerade != nil {
		errs = append(errs, k.Masquerade.Close())
	}
	if k.Tunnels != nil {
		errs = append(errs, k.Tunnels.Close())
	}
	if k.Routes != nil {
		errs = append(errs, k.Routes.Close())
	}
	return errors.Join(errs...)
}
