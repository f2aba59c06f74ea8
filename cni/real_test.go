package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/netnstest"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
	"github.com/godwit-net/godwit/routes"
)

// node is everything of a node's agent that has to do with pods, in a network
// namespace of its own, and the real plugin.
type node struct {
	*netnstest.NS
	t         *testing.T
	binary    string
	dir       string
	store     *ipamtest.Store
	addresses *ipam.Node
	server    *cni.Server
	pools     []ipam.Pool
	stop      func()
}

func newNode(t *testing.T) *node {
	t.Helper()
	return newNodeOf(t, ipam.Pool{Name: "default", CIDR: netip.MustParsePrefix("172.25.0.0/16"), BlockLen: 26, Allocate: true})
}

func newNodeOf(t *testing.T, pools ...ipam.Pool) *node {
	t.Helper()
	n := &node{NS: netnstest.New(t), t: t, dir: t.TempDir(), store: &ipamtest.Store{}, pools: pools}
	n.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	// The node's own addresses, which it reaches its pods from.
	n.Run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	n.Run("ip", "addr", "add", "10.0.0.1/24", "dev", "up0")
	n.Run("ip", "addr", "add", "fd00:1::1/64", "dev", "up0", "nodad")
	n.Run("ip", "link", "set", "up0", "up")
	// A container whose MAC address was changed asks for its gateway by ARP, and the
	// kernel answers for what it has a route to.
	n.Run("ip", "route", "add", "default", "via", "10.0.0.2")
	n.binary = filepath.Join(n.dir, "godwit-cni")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", n.binary, "../cmd/godwit-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start starts an agent's life on what is there.
func (n *node) start() {
	n.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	n.addresses, err = ipam.Open(ipam.Options{Node: "n1", Store: n.store, Dir: filepath.Join(n.dir, "addresses"), LowWater: 64, Log: log})
	if err != nil {
		n.t.Fatal(err)
	}
	n.addresses.SetPools(n.pools)
	blocks, err := n.store.ListNode(n.t.Context(), "n1")
	if err != nil {
		n.t.Fatal(err)
	}
	n.addresses.SetBlocks(blocks)
	var table *routes.Table
	n.Do(func() { table, err = routes.Open(routes.Options{Log: log}) })
	wirer, werr := wire.New(wire.Options{Log: log, Namespace: n.Path()})
	if err := errors.Join(err, werr); err != nil {
		n.t.Fatal(err)
	}
	n.server = cni.NewServer(cni.Options{
		Allocator: allocator{n.addresses, n.pools}, Routes: podRoutes{table}, Wirer: wirer,
		Ready: func() error { return nil }, Log: log, ReapDelay: 20 * time.Millisecond,
		MTU: func([]netip.Addr) (int, error) { return 1400, nil },
	})
	attached, err := n.server.Recover(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	var pods []routes.Route
	for _, a := range attached {
		for _, addr := range a.Addresses {
			pods = append(pods, routes.Route{Dst: netip.PrefixFrom(addr, addr.BitLen()), Link: a.HostLink})
		}
	}
	table.Set(routes.ClassPod, pods)
	for _, c := range []routes.Class{routes.ClassPod, routes.ClassBlock, routes.ClassLearned} {
		table.Synced(c)
	}
	l, err := cni.Listen(n.socket())
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for name, f := range map[string]func() error{
		"routes": func() error { return table.Run(ctx) },
		"ipam":   func() error { return n.addresses.Run(ctx) },
		"cni":    func() error { return n.server.Serve(ctx, l) },
	} {
		wg.Go(func() {
			if err := f(); err != nil {
				n.t.Errorf("%s: %v", name, err)
			}
		})
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(table.Close(), wirer.Close()); err != nil {
			n.t.Error(err)
		}
	})
}

func (n *node) socket() string { return filepath.Join(n.dir, "cni.sock") }

type allocator struct {
	*ipam.Node
	pools []ipam.Pool
}

func (a allocator) Allocate(ctx context.Context, o ipam.Owner, pod cni.Pod) ([]ipam.Record, error) {
	r := ipam.Request{Owner: o, Pod: pod.String()}
	for _, p := range a.pools {
		r.Pools = append(r.Pools, p.Name)
	}
	return a.Node.Allocate(ctx, r)
}

func (a allocator) Release(_ context.Context, o ipam.Owner) error {
	_, err := a.Node.Release(o)
	return err
}

type podRoutes struct{ table *routes.Table }

func (p podRoutes) Add(ctx context.Context, a netip.Addr, link string) error {
	dst := netip.PrefixFrom(a, a.BitLen())
	p.table.Update(routes.ClassPod, []routes.Route{{Dst: dst, Link: link}}, nil)
	return p.table.Wait(ctx, dst)
}

func (p podRoutes) Remove(_ context.Context, a netip.Addr) {
	p.table.Update(routes.ClassPod, nil, []netip.Prefix{netip.PrefixFrom(a, a.BitLen())})
}

// plugin executes a plugin in the node's namespace, as a runtime does.
func (n *node) plugin(path, verb, id, netns string, config map[string]any) ([]byte, error) {
	n.t.Helper()
	conf, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(path)
	cmd.Stdin, cmd.Stdout = bytes.NewReader(conf), &out
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + filepath.Dir(path),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + id, "PATH=" + os.Getenv("PATH"),
	}
	n.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(path), verb, err, out.Bytes())
	}
	return out.Bytes(), nil
}

func (n *node) config(more map[string]any) map[string]any {
	c := map[string]any{"cniVersion": "1.0.0", "name": "godwit", "type": "godwit-cni", "socket": n.socket()}
	for k, v := range more {
		c[k] = v
	}
	return c
}

type result struct {
	IPs []struct {
		Address   netip.Prefix
		Gateway   netip.Addr
		Interface int
	}
	Interfaces []struct{ Name, Mac, Sandbox string }
}

func (n *node) add(id string, pod *netnstest.NS) (netip.Addr, []byte) {
	n.t.Helper()
	addresses, out := n.addAll(id, pod)
	if len(addresses) != 1 {
		n.t.Errorf("addresses %v, want one", addresses)
		return netip.Addr{}, nil
	}
	return addresses[0], out
}

// addAll returns all addresses that ADD gave.
func (n *node) addAll(id string, pod *netnstest.NS) ([]netip.Addr, []byte) {
	n.t.Helper()
	out, err := n.plugin(n.binary, "ADD", id, pod.Path(), n.config(nil))
	var r result
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		n.t.Errorf("%v: %s", err, out)
	}
	var addresses []netip.Addr
	for _, ip := range r.IPs {
		addresses = append(addresses, ip.Address.Addr())
	}
	return addresses, out
}

func (n *node) del(id, netns string) {
	n.t.Helper()
	if _, err := n.plugin(n.binary, "DEL", id, netns, n.config(nil)); err != nil {
		n.t.Error(err)
	}
}

// left counts what pods have on the node.
func (n *node) left() string {
	links := strings.Count(n.Run("ip", "-br", "link", "show", "type", "veth"), "gw")
	routes := 0
	for _, family := range []string{"-4", "-6"} {
		routes += strings.Count(n.Run("ip", family, "route", "show", "proto", "71", "type", "unicast"), "\n")
	}
	return fmt.Sprintf("%d links, %d routes, %d records", links, routes, len(n.addresses.Records()))
}

func (n *node) eventually(want string) {
	n.t.Helper()
	var got string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = n.left(); got == want {
			return
		}
	}
	n.t.Errorf("there are %s, want %s", got, want)
}

func TestPodsPing(t *testing.T) {
	n := newNode(t)
	one, two := netnstest.New(t), netnstest.New(t)
	a, out := n.add("one", one)
	b, _ := n.add("two", two)
	one.Run("ping", "-c", "1", "-W", "2", b.String())
	two.Run("ping", "-c", "1", "-W", "2", a.String())
	n.Run("ping", "-c", "1", "-W", "2", a.String())

	var prev any
	if err := json.Unmarshal(out, &prev); err != nil {
		t.Fatal(err)
	}
	withResult := n.config(map[string]any{"prevResult": prev})
	if _, err := n.plugin(n.binary, "CHECK", "one", one.Path(), withResult); err != nil {
		t.Error(err)
	}
	one.Run("ip", "route", "del", "default")
	if _, err := n.plugin(n.binary, "CHECK", "one", one.Path(), withResult); err == nil || !strings.Contains(err.Error(), "has no default route via 169.254.1.1") {
		t.Errorf("CHECK: %v", err)
	}
	if _, err := n.plugin(n.binary, "STATUS", "", "", n.config(map[string]any{"cniVersion": "1.1.0"})); err != nil {
		t.Error(err)
	}

	// A second ADD is refused, and harms nothing.
	if _, err := n.plugin(n.binary, "ADD", "two", two.Path(), n.config(nil)); err == nil || !strings.Contains(err.Error(), "interface eth0 exists already") {
		t.Errorf("second ADD: %v", err)
	}
	n.Run("ping", "-c", "1", "-W", "2", b.String())

	n.del("one", "") // as a runtime does whose namespace is gone
	n.eventually("1 links, 1 routes, 1 records")
	if _, err := n.plugin(n.binary, "GC", "", "", n.config(map[string]any{"cniVersion": "1.1.0", "cni.dev/valid-attachments": []any{}})); err != nil {
		t.Error(err)
	}
	n.eventually("0 links, 0 routes, 0 records")
}

// Pods of both families and of IPv6 alone, through the whole of a node: the
// first packet of each passes, and nothing is left of them.
func TestPodsPingInIPv6(t *testing.T) {
	v4 := ipam.Pool{Name: "four", CIDR: netip.MustParsePrefix("172.25.0.0/16"), BlockLen: 26, Allocate: true}
	v6 := ipam.Pool{Name: "six", CIDR: netip.MustParsePrefix("fd00:25::/48"), BlockLen: 122, Allocate: true}
	own := map[bool]string{true: "10.0.0.1", false: "fd00:1::1"} // by whether it is IPv4
	for name, pools := range map[string][]ipam.Pool{"IPv6 only": {v6}, "dual-stack": {v4, v6}} {
		t.Run(name, func(t *testing.T) {
			n := newNodeOf(t, pools...)
			one, two := netnstest.New(t), netnstest.New(t)
			a, out := n.addAll("one", one)
			b, _ := n.addAll("two", two)
			if len(a) != len(pools) || len(b) != len(pools) || a[len(a)-1].Is4() {
				t.Fatalf("addresses %v and %v of pools %v", a, b, pools)
			}
			for i := range pools {
				one.Run("ping", "-c", "1", "-W", "0.5", own[a[i].Is4()])
				one.Run("ping", "-c", "1", "-W", "0.5", b[i].String())
				two.Run("ping", "-c", "1", "-W", "0.5", a[i].String())
				n.Run("ping", "-c", "1", "-W", "0.5", b[i].String())
			}
			var prev any
			if err := json.Unmarshal(out, &prev); err != nil {
				t.Fatal(err)
			}
			withResult := n.config(map[string]any{"prevResult": prev})
			if _, err := n.plugin(n.binary, "CHECK", "one", one.Path(), withResult); err != nil {
				t.Error(err)
			}
			one.Run("ip", "-6", "route", "del", "default")
			if _, err := n.plugin(n.binary, "CHECK", "one", one.Path(), withResult); err == nil || !strings.Contains(err.Error(), "has no default route via fe80::ecee:eeff:feee:eeee") {
				t.Errorf("CHECK: %v", err)
			}
			count := len(pools)
			n.stop() // the next agent finds all of it
			n.start()
			n.eventually(fmt.Sprintf("2 links, %d routes, %d records", 2*count, 2*count))
			n.del("one", one.Path())
			n.eventually(fmt.Sprintf("1 links, %d routes, %d records", count, count))
			n.Run("ping", "-c", "1", "-W", "0.5", b[count-1].String())
			n.del("two", "")
			n.eventually("0 links, 0 routes, 0 records")
		})
	}
}

func TestHundredAtOnce(t *testing.T) {
	n := newNode(t)
	const count = 100
	pods := make([]*netnstest.NS, count)
	for i := range pods {
		pods[i] = netnstest.New(t)
	}
	id := func(i int) string { return fmt.Sprint("pod", i) }
	for round := range 2 {
		var mu sync.Mutex
		seen := map[netip.Addr]bool{}
		var wg sync.WaitGroup
		for i, pod := range pods {
			wg.Go(func() {
				a, _ := n.add(id(i), pod)
				mu.Lock()
				defer mu.Unlock()
				if seen[a] {
					t.Errorf("%s was given twice", a)
				}
				seen[a] = true
			})
		}
		wg.Wait()
		n.eventually("100 links, 100 routes, 100 records")
		if round == 1 {
			n.stop() // an agent ends, and another one begins
			n.start()
			n.eventually("100 links, 100 routes, 100 records")
		}
		for i, pod := range pods {
			wg.Go(func() { n.del(id(i), pod.Path()) })
		}
		wg.Wait()
		n.eventually("0 links, 0 routes, 0 records")
	}
}

// The agent ends between the answer to DEL and the end of the work.
func TestNextAgentFinishesDel(t *testing.T) {
	n := newNode(t)
	n.add("one", netnstest.New(t))
	n.del("one", "")
	n.stop()
	n.start()
	n.eventually("0 links, 0 routes, 0 records")
}

// The chain that clusters use, with the real plugins.
func TestChain(t *testing.T) {
	plugins := os.Getenv("KUBEBUILDER_ASSETS")
	if plugins == "" {
		t.Fatal("KUBEBUILDER_ASSETS, the folder with portmap, bandwidth and tuning, is not set: run make test-unit")
	}
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			pod := netnstest.New(t)
			chain := []map[string]any{
				{"type": "godwit-cni", "socket": n.socket()},
				{"type": "portmap", "backend": "nftables", "runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}}}},
				{"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000},
				{"type": "tuning", "mac": "02:00:00:00:00:09", "mtu": 1300, "sysctl": map[string]any{"net.core.somaxconn": "512"}},
			}
			path := func(c map[string]any) string {
				if c["type"] == "godwit-cni" {
					return n.binary
				}
				return filepath.Join(plugins, c["type"].(string))
			}
			for _, c := range chain {
				c["cniVersion"], c["name"] = version, "godwit"
			}
			var prev any
			for _, c := range chain {
				if prev != nil {
					c["prevResult"] = prev
				}
				out, err := n.plugin(path(c), "ADD", "one", pod.Path(), c)
				if err != nil {
					t.Fatal(err)
				}
				prev = nil
				if err := json.Unmarshal(out, &prev); err != nil {
					t.Fatal(err)
				}
			}
			n.Run("ping", "-c", "1", "-W", "2", n.addresses.Records()[0].Address.String())
			if got := pod.Run("ip", "link", "show", "eth0"); !strings.Contains(got, "mtu 1300") || !strings.Contains(got, "02:00:00:00:00:09") {
				t.Errorf("the container's end after tuning:\n%s", got)
			}
			if got := n.Run("tc", "qdisc", "show"); !strings.Contains(got, "qdisc tbf") {
				t.Errorf("no token bucket filter:\n%s", got)
			}
			for _, c := range chain {
				c["prevResult"] = prev
				if _, err := n.plugin(path(c), "CHECK", "one", pod.Path(), c); err != nil {
					t.Error(err)
				}
			}
			for i := range chain {
				c := chain[len(chain)-1-i]
				if _, err := n.plugin(path(c), "DEL", "one", pod.Path(), c); err != nil {
					t.Error(err)
				}
			}
			n.eventually("0 links, 0 routes, 0 records")
		})
	}
}
