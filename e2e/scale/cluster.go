// Package scale measures Godwit's control plane with many nodes on one machine:
// a real kube-apiserver and etcd, the real controller as a process, and agents
// that are real on their API side, many in one process. Their kernels are those
// of agent/agenttest, their BGP speakers those of package world.
//
// Invariants:
//   - Each agent has a client and a connection of its own, on which everything is
//     counted that goes over it.
//   - Agents and controller have the rights, and the limits of rates, that they
//     have in a cluster.
//   - What it makes on the machine (one network namespace, one folder, processes)
//     is gone after Close.
package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/e2e/scale/world"
)

const (
	systemNamespace = "godwit-system"
	controllerName  = "godwit-controller"
	reflectorLabel  = "godwit.dev/route-reflector"
	owner           = client.FieldOwner("godwit-scale")
)

// Setup says what a cluster is made of.
type Setup struct {
	Bin, KubeBin string // folders with Godwit's programs and with etcd and kube-apiserver
	ConfigDir    string // the project's config folder
	Topology     v1alpha1.Topology
	MeshLimit    int // up to how many nodes Auto is a mesh
	Reflectors   int // how many of the first nodes RouteReflectors has for reflectors
	Pools        int // each node has a block of each
	Progress     io.Writer
}

// Cluster is a control plane with simulated nodes.
type Cluster struct {
	Setup
	Dir   string
	Group *process.Group

	netns    string
	cp       *controlplane.ControlPlane
	api      client.WithWatch // an administrator's
	agents   *rest.Config     // of agents
	world    *world.World
	agentLog *os.File
	plans    *plans

	mu    sync.Mutex
	nodes []*node
}

// NewCluster starts the control plane and the controller. Close the cluster also
// after an error of its use.
func NewCluster(ctx context.Context, s Setup) (_ *Cluster, err error) {
	c := &Cluster{Setup: s, netns: prefix + strconv.Itoa(os.Getpid()), world: world.New()}
	if err := sweep(ctx); err != nil {
		return nil, err
	}
	// In memory: thousands of checkpoints are no measure of the machine's one disk.
	if c.Dir, err = os.MkdirTemp(shared, c.netns+"-"); err != nil {
		return nil, err
	}
	c.Group = process.Open(c.Dir)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close(ctx))
		}
	}()
	if c.agentLog, err = os.Create(filepath.Join(c.Dir, "agents.log")); err != nil {
		return nil, err
	}
	if err := namespace.Add(ctx, c.netns); err != nil {
		return nil, err
	}
	p, err := patience.FromEnvironment()
	if err != nil {
		return nil, err
	}
	c.Group.Patience = p
	c.cp = &controlplane.ControlPlane{
		Dir: filepath.Join(c.Dir, "control-plane"), Netns: c.netns, Address: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		Etcd: filepath.Join(s.KubeBin, "etcd"), Server: filepath.Join(s.KubeBin, "kube-apiserver"),
		Group: c.Group, Patience: p,
	}
	c.say("starting etcd and kube-apiserver")
	if err := c.cp.Start(ctx); err != nil {
		return nil, err
	}
	admin := controlplane.Credentials{User: "scale", Groups: []string{controlplane.AdminGroup}}
	if err := c.cp.WriteKubeconfig(filepath.Join(c.Dir, "admin.kubeconfig"), c.cp.URL(), admin); err != nil {
		return nil, err
	}
	if err := c.createObjects(ctx); err != nil {
		return nil, err
	}
	c.plans = watchPlans(ctx, c)
	if err := c.startController(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) say(format string, a ...any) {
	if c.Progress != nil {
		_, _ = fmt.Fprintf(c.Progress, time.Now().Format("15:04:05 ")+format+"\n", a...)
	}
}

func (c *Cluster) createObjects(ctx context.Context) error {
	cfg, err := c.cp.Config("scale", controlplane.AdminGroup)
	if err != nil {
		return err
	}
	kinds := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(kinds), v1alpha1.AddToScheme(kinds)); err != nil {
		return err
	}
	if c.api, err = client.NewWithWatch(cfg, client.Options{Scheme: kinds}); err != nil {
		return err
	}
	if err := controlplane.ApplyFolder(ctx, c.api, filepath.Join(c.ConfigDir, "crd"), owner); err != nil {
		return err
	}
	if err := c.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}}); err != nil {
		return err
	}
	if err := controlplane.ApplyFolder(ctx, c.api, filepath.Join(c.ConfigDir, "rbac"), owner); err != nil {
		return err
	}
	reflectors := &v1alpha1.RouteReflectors{MeshLimit: new(int32(c.MeshLimit))}
	if c.Topology == v1alpha1.TopologyRouteReflectors {
		reflectors.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{reflectorLabel: "true"}}
	}
	objects := []client.Object{&v1alpha1.BGPConfig{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.BGPConfigName},
		Spec:       v1alpha1.BGPConfigSpec{Topology: c.Topology, RouteReflectors: reflectors},
	}}
	for i := range c.Pools {
		objects = append(objects, &v1alpha1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pool%d", i)},
			Spec:       v1alpha1.IPPoolSpec{CIDR: poolRange(i).String(), NATOutgoing: true},
		})
	}
	for _, o := range objects {
		if err := c.api.Create(ctx, o); err != nil {
			return fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
		}
	}
	// With the limits of rates that clients have without any of their own.
	c.agents = rest.AnonymousClientConfig(cfg)
	c.agents.Dial, c.agents.QPS = cfg.Dial, 0
	return nil
}

// poolRange has room for 16384 blocks.
func poolRange(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + 16*i), 0, 0}), 12)
}

// token returns a token of a service account: bound to a node, as that of the
// node's agent has to be, unless that is nil.
func (c *Cluster) token(ctx context.Context, account string, n *corev1.Node) (string, error) {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: account}}
	if n == nil {
		return controlplane.Token(ctx, c.api, sa, nil)
	}
	return controlplane.Token(ctx, c.api, sa, &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID})
}

func (c *Cluster) startController(ctx context.Context) error {
	c.say("starting godwit-controller")
	token, err := c.token(ctx, controllerName, nil)
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(c.Dir, "controller.kubeconfig")
	if err := c.cp.WriteKubeconfig(kubeconfig, c.cp.URL(), controlplane.Credentials{User: controllerName, Token: token}); err != nil {
		return err
	}
	return c.Group.Start(process.Spec{
		Name: controllerName, Netns: c.netns, Path: filepath.Join(c.Bin, controllerName),
		Args: []string{"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--log-level=info"},
	})
}

// closeTimeout bounds the end of everything.
const closeTimeout = 3 * time.Minute

// Close ends the agents and the processes and removes everything, also when ctx is
// over.
func (c *Cluster) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var errs []error
	if c.plans != nil {
		c.plans.stop()
	}
	errs = append(errs, stopAll(c.nodes))
	_, err := c.Group.StopAll(ctx)
	errs = append(errs, err, namespace.Delete(c.netns))
	if c.agentLog != nil {
		errs = append(errs, c.agentLog.Close())
	}
	if keep := os.Getenv("GODWIT_E2E_LOGS"); keep != "" {
		errs = append(errs, c.keepLogs(keep))
	}
	return errors.Join(append(errs, os.RemoveAll(c.Dir))...)
}

func (c *Cluster) keepLogs(to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil { // #nosec G301 G703 -- logs are to be read, where their reader says
		return err
	}
	files, err := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	if err != nil {
		return err
	}
	for _, f := range append(files, filepath.Join(c.Dir, "agents.log")) {
		raw, err := os.ReadFile(f) // #nosec G304 -- our own logs
		if err != nil {
			continue // it was never written
		}
		if err := os.WriteFile(filepath.Join(to, "scale-"+filepath.Base(f)), raw, 0o644); err != nil { // #nosec G306 G703 -- likewise
			return err
		}
	}
	return nil
}

// prefix begins the names of the namespace and the folder; the process id of
// their owner follows.
const prefix = "gwscale-"

// shared is where the folders are.
const shared = "/dev/shm"

// sweep removes what runs left that were killed: processes, folders, namespaces.
func sweep(ctx context.Context) error {
	dead := func(name string) bool {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	}
	folders, err := filepath.Glob(filepath.Join(shared, prefix+"*"))
	errs := []error{err}
	for _, dir := range folders {
		if dead(filepath.Base(dir)) {
			_, err := process.Open(dir).StopAll(ctx)
			errs = append(errs, err, os.RemoveAll(dir))
		}
	}
	names, err := namespace.List(prefix)
	errs = append(errs, err)
	for _, name := range names {
		if dead(name) {
			errs = append(errs, namespace.Delete(name))
		}
	}
	return errors.Join(errs...)
}
