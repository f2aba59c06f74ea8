package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// leaveRetry is how long until what could not be taken away is tried again.
const leaveRetry = 2 * time.Second

// Uninstall takes away all that agents have left on the node (Leave), trying
// until it is gone, and then waits for ctx to end. No agent may run meanwhile. At
// HealthAddress /readyz tells whether all is gone, so that a DaemonSet of it is
// ready when its work is done.
func Uninstall(ctx context.Context, o Options) {
	var last atomic.Pointer[error]
	pending := errors.New("not all that Godwit left on the node is gone yet")
	last.Store(&pending)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if o.HealthAddress != "" {
			serveHealth(ctx, o.HealthAddress, func() error { return nil }, func() error { return *last.Load() }, o.Log)
		}
	}()
	for {
		err := Leave(ctx, o)
		last.Store(&err)
		if err == nil {
			o.Log.Info("nothing of Godwit is left on the node")
			break
		}
		o.Log.Warn("something of Godwit is left on the node; trying on", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(leaveRetry):
			continue
		}
		break
	}
	<-ctx.Done()
	<-served
}

// Leave takes away all that agents have left on the node: first the runtime's
// configuration, so that it asks for no more pods, then the links of pods, which
// lose their network, the routes, the masquerade and the tunnels, and at last the
// plugins and Godwit's own folders. It is idempotent. Settings of the kernel stay,
// as others may rely on them, too.
func Leave(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if o.CNIConfig != "" {
		if err := removeFile(o.CNIConfig); err != nil {
			return fmt.Errorf("remove the CNI configuration: %w", err)
		}
	}
	err := errors.Join(
		leaveLinks(ctx, o.Log),
		leaveRoutes(ctx, o.Log),
		leaveMasquerade(),
		leaveTunnels(ctx, o.Log),
	)
	if err != nil {
		return err // the folders tell what is still to be done
	}
	if err := removePlugins(o.StateDir, o.CNIBin); err != nil {
		return fmt.Errorf("remove the CNI plugins: %w", err)
	}
	return errors.Join(os.RemoveAll(o.RunDir), os.RemoveAll(o.StateDir))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// leaveLinks deletes the links of all pods.
func leaveLinks(ctx context.Context, log *slog.Logger) error {
	w, err := wire.New(wire.Options{Log: log})
	if err != nil {
		return err
	}
	links, err := w.List(ctx)
	for _, l := range links {
		_, _, derr := w.Doom(ctx, l.ContainerID, l.Interface)
		err = errors.Join(err, derr)
	}
	return errors.Join(err, w.Sweep(ctx), w.Close())
}

// leaveRoutes deletes the routes, and the nexthop objects of our protocol.
func leaveRoutes(ctx context.Context, log *slog.Logger) error {
	table, err := routes.Open(routes.Options{Log: log})
	if err != nil {
		return err
	}
	for _, class := range routes.Classes() {
		table.Set(class, nil)
		table.Synced(class)
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- table.Run(run) }()
	for err = errors.New("not looked yet"); err != nil; {
		if err = routesLeft(); err == nil && table.Status().NextHops > 0 {
			err = fmt.Errorf("%d nexthop objects are left", table.Status().NextHops)
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("remove the routes: %w", err)
		case <-time.After(20 * time.Millisecond):
			continue
		}
		break
	}
	cancel()
	return errors.Join(err, <-ended, table.Close())
}

// routesLeft returns an error if there are routes of our protocol.
func routesLeft() error {
	left, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routes.Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%d routes are left, such as that to %s", len(left), left[0].Dst)
	}
	return nil
}

func leaveMasquerade() error {
	table, err := nat.Open()
	if err != nil {
		return err
	}
	return errors.Join(table.Remove(), table.Close())
}

func leaveTunnels(ctx context.Context, log *slog.Logger) error {
	table, err := tunnel.Open(tunnel.Options{Log: log})
	if err != nil {
		return err
	}
	_, err = table.Set(ctx, tunnel.Config{})
	return errors.Join(err, table.Close())
}

// removePlugins removes Godwit's plugin and those that an agent has brought.
func removePlugins(stateDir, bin string) error {
	names, err := broughtPlugins(stateDir)
	if err != nil {
		return err
	}
	errs := []error{removeFile(filepath.Join(bin, ownPlugin))}
	for _, name := range names {
		errs = append(errs, removeFile(filepath.Join(bin, filepath.Base(name))))
	}
	return errors.Join(errs...)
}
