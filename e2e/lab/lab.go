// Package lab puts a whole Godwit cluster together on one machine: a real
// control plane, nodes that run the real agents, two top-of-rack routers, hosts
// behind them and pods, each in a network namespace. The lab program shows it
// to a person; the end-to-end tests run on it.
//
// Invariants:
//   - Everything of a lab is found from its prefix (namespaces), its directory
//     (files) and its processes' mark, so Down works also after a failed or
//     killed Up, and leaves nothing behind.
//   - Two labs with different prefixes and directories do not meet.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/e2e/router"
	"github.com/godwit-net/godwit/e2e/topology"
)

// SystemNamespace is where Godwit and its secrets live.
const SystemNamespace = "godwit-system"

// ReleaseDelay is after what time the lab's controllers free the blocks of a node
// that is gone.
const ReleaseDelay = 10 * time.Second

// ControllerProcess is the name of the controller's process; an agent's is
// AgentProcess of its node.
const ControllerProcess = "godwit-controller"

func (l *Lab) agents() []string {
	var names []string
	for _, n := range l.Top.Nodes {
		names = append(names, AgentProcess(n.Name))
	}
	return names
}

// AgentProcess returns the name of the process of a node's agent.
func AgentProcess(node string) string { return "godwit-agent-" + node }

// Config says what a lab is made of.
type Config struct {
	Prefix    string   // of its namespaces' names
	Dir       string   // for all its files
	Bin       []string // folders with the programs, the first that has one wins
	ConfigDir string   // the project's config folder, for the CRDs
	// Proxy is a program that is run with "proxy", for the API server to be reached
	// from outside of the lab's network; empty: none.
	Proxy string
	// Options are what the lab is to be like; nil: as the one that is up, or else the
	// reference lab.
	Options *Options
	// Patience stretches the lab's deadlines.
	Patience patience.Factor
}

// Lab is a lab.
type Lab struct {
	Config
	Options Options // with their defaults
	Top     topology.Topology
	Group   *process.Group
	CP      *controlplane.ControlPlane
	Routers []router.Router

	mu   sync.Mutex
	pods []pods.Pod
	api  client.Client
}

// Open returns the lab of a configuration, which may be up or not.
func Open(c Config) (*Lab, error) {
	if c.Prefix == "" || !filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) == "/" {
		return nil, fmt.Errorf("a lab needs a prefix (%q) and a directory of its own (%q)", c.Prefix, c.Dir)
	}
	var o Options
	if c.Options != nil {
		o = *c.Options
	} else {
		var err error
		if o, err = readOptions(c.Dir); err != nil {
			return nil, err
		}
	}
	o = o.WithDefaults()
	if err := o.Check(); err != nil {
		return nil, err
	}
	l := &Lab{Config: c, Options: o, Top: topology.New(c.Prefix, o.Options), Group: process.Open(c.Dir)}
	l.Group.Patience = c.Patience
	l.CP = &controlplane.ControlPlane{
		Dir: l.path("control-plane"), Netns: l.Top.Namespace(topology.Fabric),
		Address: l.Top.ControlPlane.First(), Group: l.Group, Patience: c.Patience,
	}
	for i, t := range l.Top.ToRs {
		rc := l.routerConfig(t)
		if i%2 == 0 {
			l.Routers = append(l.Routers, router.NewBIRD(rc, l.Group))
		} else {
			l.Routers = append(l.Routers, router.NewFRR(rc, l.Group))
		}
	}
	return l, l.loadPods()
}

// ClaimRange is a range that routers take addresses of one by one, for pools whose
// addresses are claimed. The lab itself has no such pool.
func ClaimRange() netip.Prefix { return netip.MustParsePrefix("172.26.0.0/24") }

// routerConfig is what a top-of-rack router is to do: it speaks with the nodes
// of its subnet.
func (l *Lab) routerConfig(t topology.ToR) router.Config {
	c := router.Config{
		Name: t.Name, Netns: l.Top.Namespace(t.Name), Dir: l.path(t.Name),
		RouterID: t.RouterID, Addresses: t.Address.Addrs(), ASN: t.ASN, PeerASN: l.Top.NodeASN, Password: t.Password,
		OneFamily: l.Options.Sessions == SessionsBoth, Pools: l.Top.Pool.Each(),
		Announce:          append(t.Hosts.Networks(), t.Shared.Networks()...),
		AnnounceLinks:     []string{"hosts", "shared"},
		NoGracefulRestart: l.Options.NoGracefulRestart,
		Patience:          l.Patience,
	}
	if l.Top.Pool.V4.IsValid() {
		c.Pools = append(c.Pools, ClaimRange())
	}
	for _, f := range l.sessionFamilies() {
		for _, n := range l.Top.Nodes {
			if l.behindRouters(n) {
				name := strings.ReplaceAll(l.sessionName(n.Name, f), "-", "_")
				c.Peers = append(c.Peers, router.Neighbor{Name: name, Address: n.Address.Of(f).Addr()})
			}
		}
	}
	return c
}

// behindRouters tells whether a node speaks with the top-of-rack routers.
func (l *Lab) behindRouters(n topology.Node) bool { return n.Subnet == 0 }

// sessionFamilies lists the families over which nodes and routers speak.
func (l *Lab) sessionFamilies() []topology.Family {
	return slices.DeleteFunc(l.Options.Family.Each(), func(f topology.Family) bool { return !l.Options.Sessions.has(f) })
}

// sessionName tells the sessions with a machine apart where there are two.
func (l *Lab) sessionName(machine string, f topology.Family) string {
	if f == topology.IPv6 && len(l.sessionFamilies()) > 1 {
		return machine + "-v6"
	}
	return machine
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}

// Kubeconfig is an administrator's, for those in the lab's network.
func (l *Lab) Kubeconfig() string { return l.path("kubeconfig-inside") }

// LocalKubeconfig is an administrator's, for this machine's own network; it
// exists when the lab has a proxy.
func (l *Lab) LocalKubeconfig() string { return l.path("kubeconfig") }

// NodeDir is the folder of a node's agent.
func (l *Lab) NodeDir(node string) string { return l.path(node) }

// ConfList is the CNI configuration that a node's agent writes.
func (l *Lab) ConfList(node string) string { return l.path(node, "cni", "10-godwit.conflist") }

// RunDir is the agent's run directory, with its socket and address records.
func (l *Lab) RunDir(node string) string { return l.path(node, "run") }

// StateDir is where a node's agent keeps its checkpoint.
func (l *Lab) StateDir(node string) string { return l.path(node, "state") }

// Program finds one of the programs that the lab runs.
func (l *Lab) Program(name string) (string, error) {
	for _, dir := range l.Bin {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return filepath.Abs(p)
		}
	}
	return "", fmt.Errorf("program %s is in none of %s: run `make lab` or `make test-e2e`, which build it", name, strings.Join(l.Bin, ", "))
}

// IsUp tells whether anything of the lab is there.
func (l *Lab) IsUp() bool {
	if _, err := os.Stat(l.Dir); err == nil {
		return true
	}
	names, _ := l.Top.Namespaces()
	return len(names) > 0
}

// Lock keeps others from building or ending the same lab until it is released.
// It leaves no file, and goes with its holder.
func (l *Lab) Lock() (release func(), err error) {
	s, err := net.Listen("unix", "@godwit-lab:"+l.Dir)
	if err != nil {
		return nil, fmt.Errorf("another `lab up` or `lab down` is at work on the lab in %s: wait for it, or end it (%w)", l.Dir, err)
	}
	return func() { _ = s.Close() }, nil
}

// Up builds the lab and returns when all sessions are established and all
// pods attached. What it leaves when it fails, Down removes.
func (l *Lab) Up(ctx context.Context, p *Progress) error {
	type step struct {
		what string
		do   func(context.Context) error
	}
	steps := []step{
		{"look for the programs", l.preflight},
		{l.networkStep(), l.Top.Build},
		{"control plane: etcd and kube-apiserver", l.startControlPlane},
		{"API: custom resources, nodes, pool, blocks, peers", l.createObjects},
		{"routers: BIRD as tor1, FRR as tor2" + map[bool]string{true: ", and the same once more"}[len(l.Routers) > 2], l.startRouters},
		{"godwit-controller, and godwit-agent on n1, n2, n3", l.startGodwit},
		{"agents ready for pods", l.WaitAgentsReady},
		{"BGP sessions established", l.WaitEstablished},
		{"pods: attached by godwit-cni through libcni", l.attachPods},
		{"routes: every block known everywhere", l.WaitConverged},
	}
	if devices := l.tunnelDevices(); len(devices) > 0 {
		// Before there are pods, so that these have the same addresses in every lab.
		steps = slices.Insert(steps, 8, step{"tunnels: " + strings.Join(devices, ", "), l.waitTunnels})
	}
	for _, s := range steps {
		if err := p.Step(s.what, func() error { return s.do(ctx) }); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// networkStep says what the network is to be.
func (l *Lab) networkStep() string {
	subnets := "a bridge"
	if l.Options.Subnets > 1 {
		subnets = fmt.Sprintf("%d subnets", l.Options.Subnets)
	}
	return fmt.Sprintf("network: %s, %d nodes, %d top-of-rack routers, %d hosts", subnets, len(l.Top.Nodes), len(l.Top.ToRs), len(l.Top.Hosts))
}

// preflight finds what is missing before anything is made.
func (l *Lab) preflight(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces, so it must run as root")
	}
	var errs []error
	var err error
	for _, prog := range []string{"godwit-agent", "godwit-controller", "godwit-cni", "godwitctl", "kubectl"} {
		_, err = l.Program(prog)
		errs = append(errs, err)
	}
	l.CP.Etcd, err = l.Program("etcd")
	errs = append(errs, err)
	l.CP.Server, err = l.Program("kube-apiserver")
	errs = append(errs, err)
	if err := errors.Join(append(errs, l.probeIPIP(ctx))...); err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil { // #nosec G301 -- FRR runs as its own user
		return err
	}
	if err := l.Options.write(l.Dir); err != nil {
		return err
	}
	return l.nameProtocol()
}

func (l *Lab) startControlPlane(ctx context.Context) error {
	if err := l.CP.Start(ctx); err != nil {
		return err
	}
	admin := controlplane.Credentials{User: "lab", Groups: []string{controlplane.AdminGroup}}
	if err := l.CP.WriteKubeconfig(l.Kubeconfig(), l.CP.URL(), admin); err != nil {
		return err
	}
	if l.Proxy == "" {
		return nil
	}
	return l.startProxy(ctx, admin)
}

// startProxy lets this machine's kubectl and godwitctl reach the API server.
func (l *Lab) startProxy(ctx context.Context, admin controlplane.Credentials) error {
	addrFile := l.path("proxy.addr")
	err := l.Group.Start(process.Spec{
		Name: "proxy", Path: l.Proxy,
		Args: []string{"proxy", "--netns", l.CP.Netns, "--to", strings.TrimPrefix(l.CP.URL(), "https://"), "--address-file", addrFile},
	})
	if err != nil {
		return err
	}
	return l.poll(ctx, 10*time.Second, "proxy (see "+l.Group.Log("proxy")+")", func(context.Context) error {
		addr, err := os.ReadFile(addrFile) // #nosec G304 -- the lab's own file
		if err != nil {
			return err
		}
		return l.CP.WriteKubeconfig(l.LocalKubeconfig(), "https://"+string(addr), admin)
	})
}

func (l *Lab) startRouters(ctx context.Context) error {
	for _, r := range l.Routers {
		if err := r.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startGodwit(ctx context.Context) error {
	if err := l.StartController(ctx); err != nil {
		return err
	}
	for _, n := range l.Top.Nodes {
		if err := l.StartAgent(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// StartController starts the controller.
func (l *Lab) StartController(ctx context.Context) error {
	return l.StartControllerAs(ctx, ControllerProcess)
}

// StartControllerAs starts one more controller, as a process of that name.
func (l *Lab) StartControllerAs(ctx context.Context, name string) error {
	path, err := l.Program("godwit-controller")
	if err != nil {
		return err
	}
	kubeconfig := l.controllerKubeconfig(name)
	if err := l.writeCredentials(ctx, kubeconfig, "godwit-controller", ""); err != nil {
		return err
	}
	return l.Group.Start(process.Spec{
		Name: name, Netns: l.CP.Netns, Path: path,
		Args: []string{"--kubeconfig=" + kubeconfig, "--namespace=" + SystemNamespace, "--block-release-delay=" + ReleaseDelay.String()},
	})
}

// Alive tells whether a process of the lab's runs.
func (l *Lab) Alive(process string) bool {
	r, err := l.Group.Get(process)
	return err == nil && r.Alive()
}

// MetricsAddress is where each agent serves its metrics, in its node's namespace.
const MetricsAddress = "127.0.0.1:9471"

// StartAgent starts the agent of a node.
func (l *Lab) StartAgent(ctx context.Context, node string) error {
	path, err := l.Program("godwit-agent")
	if err != nil {
		return err
	}
	// The agent offers the runtime what all plugins of the chain support.
	portmap, err := l.Program("portmap")
	if err != nil {
		return err
	}
	kubeconfig := l.agentKubeconfig(node)
	if err := l.writeCredentials(ctx, kubeconfig, "godwit-agent", node); err != nil {
		return err
	}
	for _, dir := range []string{l.RunDir(node), l.StateDir(node), filepath.Dir(l.ConfList(node))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return l.Group.Start(process.Spec{
		Name: AgentProcess(node), Netns: l.Top.Namespace(node), Path: path,
		Args: []string{
			"--node-name=" + node, "--kubeconfig=" + kubeconfig, "--namespace=" + SystemNamespace,
			"--run-dir=" + l.RunDir(node), "--state-dir=" + l.StateDir(node),
			"--cni-conf=" + l.ConfList(node), "--cni-bin-dir=" + filepath.Dir(portmap), "--log-level=info", "--metrics-address=" + MetricsAddress,
		},
	})
}

// Runtime is a node's container runtime.
func (l *Lab) Runtime(node string) *pods.Runtime {
	return &pods.Runtime{
		NodeNetns: l.Top.Namespace(node), Conf: l.ConfList(node),
		Plugins: l.Bin, Cache: filepath.Join(l.NodeDir(node), "cni-cache"),
	}
}

// Down ends the lab and removes all of it. It is idempotent, and works on
// what a failed or killed Up left. It returns the processes of others, such as
// a person's shells, that still are in the lab's namespaces and keep them alive.
func (l *Lab) Down(ctx context.Context) ([]string, error) {
	var errs []error
	for _, r := range l.Routers {
		errs = append(errs, r.Stop(ctx))
	}
	for _, agent := range append(l.agents(), ControllerProcess) {
		errs = append(errs, l.Group.Stop(ctx, agent))
	}
	// The API server would wait for its watchers, and etcd's data goes anyway.
	for _, name := range []string{controlplane.ServerProcess, controlplane.EtcdProcess} {
		errs = append(errs, l.Group.Kill(ctx, name))
	}
	ended, err := l.Group.StopAll(ctx)
	errs = append(errs, err)
	for _, r := range ended {
		errs = append(errs, router.RemoveCrashLogs(r))
	}
	names, err := l.Top.Namespaces()
	errs = append(errs, err)
	guests, err := namespace.Guests(names)
	errs = append(errs, err, l.Top.Destroy(), l.unnameProtocol(), os.RemoveAll(l.Dir))
	l.mu.Lock()
	l.pods, l.api = nil, nil
	l.mu.Unlock()
	return guests, errors.Join(errs...)
}

// protocolsDir is where iproute2 looks for names of route protocols.
const protocolsDir = "/etc/iproute2/rt_protos.d"

func (l *Lab) protocolFile() string {
	return filepath.Join(protocolsDir, strings.TrimSuffix(l.Prefix, "-")+"-lab.conf")
}

// nameProtocol lets ip(8) say "proto godwit" for Godwit's routes.
func (l *Lab) nameProtocol() error {
	err := os.WriteFile(l.protocolFile(), []byte("71\tgodwit\n"), 0o644) // #nosec G306 -- ip(8) is anyone's
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (l *Lab) unnameProtocol() error {
	if err := os.Remove(l.protocolFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// poll repeats a question until it is answered without an error, at most for
// a while. It gives up at once when a program of the lab has ended.
func (l *Lab) poll(ctx context.Context, limit time.Duration, what string, ask func(context.Context) error) error {
	limit = l.Patience.Times(limit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if dead := l.dead(); dead != "" {
			return fmt.Errorf("%s: %w; %s has ended: see %s\n%s", what, err, dead, l.Group.Log(dead), tail(l.Group.Log(dead)))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w; logs are in %s", what, limit, err, l.path("log"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// dead names a process that was started and not stopped, but has ended.
func (l *Lab) dead() string {
	all, err := l.Group.List()
	if err != nil {
		return ""
	}
	for _, r := range all {
		if !r.Alive() {
			return r.Name
		}
	}
	return ""
}

// tail returns the last lines of a file.
func tail(file string) string {
	raw, err := os.ReadFile(file) // #nosec G304 -- the lab's own log
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
