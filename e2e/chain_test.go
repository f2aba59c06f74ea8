package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
)

// testPluginChain attaches a pod through a chain with the plugins that
// clusters use behind a main plugin.
func testPluginChain(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	base := census(t, l, "n1")
	rt := l.Runtime("n1")
	list, err := rt.ConfList(
		map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}, "backend": "nftables"},
		map[string]any{"type": "bandwidth", "capabilities": map[string]any{"bandwidth": true}},
		map[string]any{"type": "tuning", "sysctl": map[string]any{"net.core.somaxconn": "512"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != "1.1.0" {
		t.Errorf("libcni takes CNI version %s, want 1.1.0: it and all plugins support it", list.CNIVersion)
	}
	block := nodeOf(t, l, "n1").Block.V4
	fixed := block.Addr().As4()
	fixed[3] += 61 // not one of the first, which other pods have
	wanted := netip.AddrFrom4(fixed)
	caps := map[string]any{
		"io.kubernetes.cri.pod-annotations": map[string]string{v1alpha1.AddressAnnotation: wanted.String(), v1alpha1.PoolsAnnotation: lab.PoolOf(topology.IPv4)},
		"portMappings":                      []map[string]any{{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":                         map[string]any{"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000},
	}
	p := pods.New("n1-chain", "default", l.Top.Namespace("n1-chain"))
	if _, err := rt.Add(ctx, &p, list, caps); err != nil {
		t.Fatal(err)
	}
	if p.Address != wanted {
		t.Errorf("the pod has %s, want %s, which it asks for by its annotation", p.Address, wanted)
	}
	t.Run("tuning", func(t *testing.T) {
		if got := strings.TrimSpace(run(t, l, "n1-chain", "cat /proc/sys/net/core/somaxconn")); got != "512" {
			t.Errorf("net.core.somaxconn in the pod is %s, want 512", got)
		}
	})
	t.Run("bandwidth", func(t *testing.T) {
		out := run(t, l, "n1", "tc qdisc show")
		if n := strings.Count(out, "qdisc tbf"); n != 2 {
			t.Errorf("%d token bucket filters on n1, want one each way:\n%s", n, out)
		}
	})
	t.Run("portmap", func(t *testing.T) {
		server, err := traffic.Listen(p.Netns, 80)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		node := netip.AddrPortFrom(nodeOf(t, l, "n1").Address.First(), 18080)
		for _, from := range []string{"n2", "internet"} {
			c, err := traffic.Dial(ctx, l.Top.Namespace(from), node)
			if err != nil {
				t.Errorf("from %s: %v", from, err)
				continue
			}
			_ = c.Close()
		}
	})
	t.Run("check", func(t *testing.T) {
		if err := rt.Check(ctx, &p, list, caps); err != nil {
			t.Error(err)
		}
	})
	if err := rt.Del(ctx, &p, list, caps); err != nil {
		t.Fatal(err)
	}
	base.same(t, l)
}

// testBadRequests runs the plugin with requests that make no sense. Each gets
// an error of the CNI specification that names what is wrong.
func testBadRequests(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	base := census(t, l, "n1")
	list, err := l.Runtime("n1").ConfList()
	if err != nil {
		t.Fatal(err)
	}
	good := withRuntimeFields(t, list)
	if err := namespace.Add(ctx, l.Top.Namespace("n1-bad")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = namespace.Delete(l.Top.Namespace("n1-bad")) }()
	run(t, l, "n1-bad", "ip link add taken type bridge")
	netns := namespace.Path(l.Top.Namespace("n1-bad"))
	for _, tt := range []struct {
		name, config, netns, ifname string
		code                        string
	}{
		{"no netns", good, "", "eth0", ""},
		{"netns that is not there", good, "/run/netns/godwit-not-there", "eth0", ""},
		{"netns that is a file", good, "/etc/hostname", "eth0", ""},
		{"version of the future", strings.Replace(good, `"cniVersion":"`+list.CNIVersion+`"`, `"cniVersion":"9.9.9"`, 1), netns, "eth0", `"code": 1`},
		{"broken JSON", good[:len(good)/2], netns, "eth0", `"code": 6`},
		{"long interface name", good, netns, "eth0123456789abcdef", ""},
		{"interface that exists", good, netns, "taken", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := plugin(ctx, t, l, "ADD", tt.config, tt.netns, tt.ifname)
			if err == nil {
				t.Fatalf("the plugin succeeded: %s", out)
			}
			compact := strings.ReplaceAll(out, `"code":`, `"code": `)
			if !strings.Contains(out, `"msg"`) || !strings.Contains(strings.ReplaceAll(compact, "  ", " "), tt.code) {
				t.Errorf("the plugin printed %s, want a CNI error with %s", out, tt.code)
			}
			t.Log(strings.Join(strings.Fields(out), " "))
		})
	}
	base.same(t, l)
}

// plugin executes the plugin's binary as a runtime does.
func plugin(ctx context.Context, t *testing.T, l *lab.Lab, verb, config, netns, ifname string) (string, error) {
	t.Helper()
	path, err := l.Program("godwit-cni")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=bad", "CNI_NETNS=" + netns, "CNI_IFNAME=" + ifname,
		"CNI_PATH=" + filepath.Dir(path), "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bad",
	}
	cmd.Stdin = strings.NewReader(config)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := namespace.Do(l.Top.Namespace("n1"), cmd.Start); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), err
}

// withRuntimeFields is the first plugin's configuration as a runtime hands it
// over: with the name and version of the list.
func withRuntimeFields(t *testing.T, list *libcni.NetworkConfigList) string {
	t.Helper()
	var conf map[string]any
	if err := json.Unmarshal(list.Plugins[0].Bytes, &conf); err != nil {
		t.Fatal(err)
	}
	conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
	raw, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
