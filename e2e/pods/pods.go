// Package pods attaches network namespaces to a node's network as a container
// runtime does: through libcni, with the real plugin binaries and the
// configuration that the node's agent wrote.
package pods

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// Runtime is a node's container runtime, as far as networks go.
type Runtime struct {
	NodeNetns string   // plugins run in it
	Conf      string   // the conflist that the agent writes
	Plugins   []string // folders with plugins
	Cache     string   // libcni's own
}

// Pod is a pod's network namespace and what it got.
type Pod struct {
	Name        string // also of the pod in the eyes of Kubernetes
	Namespace   string // of Kubernetes
	Netns       string
	ContainerID string
	Address     netip.Addr   // the IPv4 one or, where there is none, the IPv6 one
	Addresses   []netip.Addr // all, IPv4 first
}

// Of returns the pod's address of a family, and whether it has one.
func (p *Pod) Of(v6 bool) (netip.Addr, bool) {
	for _, a := range p.Addresses {
		if a.Is6() == v6 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// New returns a pod that is not attached yet. Its container id is made from
// the name of its network namespace.
func New(name, kubeNamespace, netns string) Pod {
	sum := sha256.Sum256([]byte(netns))
	return Pod{Name: name, Namespace: kubeNamespace, Netns: netns, ContainerID: hex.EncodeToString(sum[:])}
}

// Interface is the name of the interface in every pod.
const Interface = "eth0"

// ConfList reads the configuration that the agent wrote, with plugins
// appended to the chain.
func (r *Runtime) ConfList(more ...map[string]any) (*libcni.NetworkConfigList, error) {
	list, err := libcni.ConfListFromFile(r.Conf)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration: %w", err)
	}
	if len(more) == 0 {
		return list, nil
	}
	var conf map[string]any
	if err := json.Unmarshal(list.Bytes, &conf); err != nil {
		return nil, err
	}
	chain, ok := conf["plugins"].([]any)
	if !ok {
		return nil, fmt.Errorf("%s has no plugins", r.Conf)
	}
	for _, m := range more {
		chain = append(chain, m)
	}
	conf["plugins"] = chain
	raw, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(raw)
}

// Add makes the pod's network namespace and attaches it; the pod then bears
// its addresses. Capabilities are the runtime's arguments to chained plugins.
func (r *Runtime) Add(ctx context.Context, p *Pod, list *libcni.NetworkConfigList, capabilities map[string]any) (*types100.Result, error) {
	if err := namespace.Add(ctx, p.Netns); err != nil {
		return nil, err
	}
	res, err := r.cni().AddNetworkList(ctx, list, p.runtimeConf(capabilities))
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", p.Name, err)
	}
	result, err := types100.GetResult(res)
	if err != nil {
		return nil, err
	}
	p.Addresses = nil
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			p.Addresses = append(p.Addresses, a.Unmap())
		}
	}
	if len(p.Addresses) == 0 {
		return nil, fmt.Errorf("attach %s: the plugin gave no address", p.Name)
	}
	slices.SortFunc(p.Addresses, netip.Addr.Compare) // IPv4 before IPv6
	p.Address = p.Addresses[0]
	return result, nil
}

// Detach detaches a pod, whose network namespace stays.
func (r *Runtime) Detach(ctx context.Context, p *Pod, list *libcni.NetworkConfigList, capabilities map[string]any) error {
	if err := r.cni().DelNetworkList(ctx, list, p.runtimeConf(capabilities)); err != nil {
		return fmt.Errorf("detach %s: %w", p.Name, err)
	}
	return nil
}

// Del detaches a pod and removes its network namespace.
func (r *Runtime) Del(ctx context.Context, p *Pod, list *libcni.NetworkConfigList, capabilities map[string]any) error {
	if err := r.Detach(ctx, p, list, capabilities); err != nil {
		return err
	}
	return namespace.Delete(p.Netns)
}

// Check asks whether the attachment is as it should be.
func (r *Runtime) Check(ctx context.Context, p *Pod, list *libcni.NetworkConfigList, capabilities map[string]any) error {
	return r.cni().CheckNetworkList(ctx, list, p.runtimeConf(capabilities))
}

// Status asks whether the network takes pods.
func (r *Runtime) Status(ctx context.Context, list *libcni.NetworkConfigList) error {
	return r.cni().GetStatusNetworkList(ctx, list)
}

// ErrorCode returns the code of a CNI error; 0: it is none.
func ErrorCode(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func (p *Pod) runtimeConf(capabilities map[string]any) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID, NetNS: namespace.Path(p.Netns), IfName: Interface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
		},
		CapabilityArgs: capabilities,
	}
}

func (r *Runtime) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(r.Plugins, filepath.Clean(r.Cache), &executor{netns: r.NodeNetns})
}

// executor runs plugins in the node's network namespace, where a runtime
// would be. It is libcni's own way of running them but for that.
type executor struct {
	invoke.RawExec
	version.PluginDecoder
	netns string
}

// ExecPlugin runs one plugin.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	derr := namespace.Do(e.netns, func() error {
		out, err = e.RawExec.ExecPlugin(ctx, path, stdin, environ)
		return nil
	})
	if derr != nil {
		return nil, derr
	}
	return out, err
}
