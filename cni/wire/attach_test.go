package wire

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func newWirer(t testing.TB, node *netnstest.NS) *Wirer {
	t.Helper()
	w, err := New(Options{Log: slog.New(slog.DiscardHandler), Namespace: node.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func open(t testing.TB, w *Wirer, pod *netnstest.NS) *Namespace {
	t.Helper()
	ns, err := w.OpenNamespace(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func spec(id string, addresses ...string) Spec {
	s := Spec{Identity: Identity{Network: "godwit", ContainerID: id, Interface: "eth0"}, MTU: 1400}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

func attach(t testing.TB, w *Wirer, ns *Namespace, s Spec) Link {
	t.Helper()
	l, err := w.Attach(t.Context(), ns, s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lines is what a command prints, without the blanks at the lines' ends.
func lines(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimRight(l, " \n"); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func TestAttachedPodLooksAsDesigned(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	pod.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	w := newWirer(t, node)
	s := spec("one", "172.25.0.130")
	l := attach(t, w, open(t, w, pod), s)

	want := Link{Identity: s.Identity, HostEnd: HostEnd("one", "eth0"), HostMAC: hostMAC, PodMAC: macOf("one", "eth0"), MTU: 1400}
	if d := cmp.Diff(want, l, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("the attachment (-want +got):\n%s", d)
	}
	for _, c := range []struct {
		ns   *netnstest.NS
		cmd  string
		want string
	}{
		{pod, "ip route", "default via 169.254.1.1 dev eth0\n169.254.1.1 dev eth0 scope link"},
		{pod, "ip neigh", "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"},
		{pod, "ip -br addr show dev eth0", "eth0@if2         UP             172.25.0.130/32"},
		{pod, "cat /sys/class/net/eth0/mtu", "1400"},
		{pod, "sysctl net.ipv4.ip_forward", "net.ipv4.ip_forward = 0"},
		{node, "cat /sys/class/net/" + l.HostEnd + "/ifalias", "godwit godwit one eth0 172.25.0.130"},
		{node, "cat /sys/class/net/" + l.HostEnd + "/mtu", "1400"},
		{node, "cat /sys/class/net/" + l.HostEnd + "/address", "ee:ee:ee:ee:ee:ee"},
		{node, "cat /sys/class/net/" + l.HostEnd + "/operstate", "up"},
		{node, "ip addr show dev " + l.HostEnd + " scope link", ""},
		{node, "sysctl -n net.ipv4.neigh." + l.HostEnd + ".proxy_delay net.ipv6.conf." + l.HostEnd + ".accept_ra", "0\n0"},
	} {
		words := strings.Fields(c.cmd)
		if got := lines(c.ns.Run(words[0], words[1:]...)); !strings.Contains(got, c.want) || (c.want == "" && strings.Contains(got, "inet")) {
			t.Errorf("%s:\n%s\nwant:\n%s", c.cmd, got, c.want)
		}
	}
	for _, o := range hostConf {
		if got := lines(node.Run("sysctl", "-n", "net.ipv4.conf."+l.HostEnd+"."+o.name)); got != "1" {
			t.Errorf("%s of %s is %s", o.name, l.HostEnd, got)
		}
	}
}

func TestForwardingPodKeepsItsSetting(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	pod.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	w := newWirer(t, node)
	s := spec("one", "172.25.0.130")
	s.Forward = true
	attach(t, w, open(t, w, pod), s)
	if got := lines(pod.Run("sysctl", "-n", "net.ipv4.ip_forward")); got != "1" {
		t.Errorf("ip_forward is %s", got)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	node, one, two := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	w := newWirer(t, node)
	for i, pod := range []*netnstest.NS{one, two} {
		s := spec(string(rune('a'+i)), []string{"172.25.0.130", "172.25.0.131"}[i], []string{"fd00:25::82", "fd00:25::83"}[i])
		l := attach(t, w, open(t, w, pod), s)
		for _, a := range s.Addresses {
			node.Run("ip", "route", "add", a.String(), "dev", l.HostEnd)
		}
	}
	one.Run("ping", "-c", "1", "-W", "2", "172.25.0.131")
	two.Run("ping", "-c", "1", "-W", "2", "172.25.0.130")
	one.Run("ping", "-c", "1", "-W", "2", "fd00:25::83")
	two.Run("ping", "-c", "1", "-W", "2", "fd00:25::82")
	// Who asks by ARP for whatever address is answered with the host's MAC address.
	// (The kernel answers for what it has a route to.)
	node.Run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	node.Run("ip", "link", "set", "up0", "up")
	node.Run("ip", "route", "add", "default", "dev", "up0")
	one.Run("ip", "neigh", "del", "169.254.1.1", "dev", "eth0")
	one.Run("ping", "-c", "1", "-W", "2", "172.25.0.131")
}

func TestAttachFailsCleanly(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	w := newWirer(t, node)
	ns := open(t, w, pod)

	t.Run("interface exists", func(t *testing.T) {
		pod.Run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x0")
		defer pod.Run("ip", "link", "del", "eth0")
		if _, err := w.Attach(t.Context(), ns, spec("one", "172.25.0.130")); !errors.Is(err, ErrInterfaceExists) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("foreign link has the name", func(t *testing.T) {
		name := HostEnd("one", "eth0")
		node.Run("ip", "link", "add", name, "type", "veth", "peer", "name", "x0")
		if _, err := w.Attach(t.Context(), ns, spec("one", "172.25.0.130")); !errors.Is(err, ErrForeignLink) {
			t.Errorf("got %v", err)
		}
		if alias := lines(node.Run("cat", "/sys/class/net/"+name+"/ifalias")); alias != "" {
			t.Errorf("the foreign link was given the alias %q", alias)
		}
		node.Run("ip", "link", "del", name)
	})
	t.Run("default route exists", func(t *testing.T) {
		pod.Run("ip", "link", "add", "y0", "type", "veth", "peer", "name", "y1")
		defer pod.Run("ip", "link", "del", "y0")
		pod.Run("ip", "link", "set", "y0", "up")
		pod.Run("ip", "route", "add", "default", "dev", "y0")
		_, err := w.Attach(t.Context(), ns, spec("one", "172.25.0.130"))
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "add the default route via 169.254.1.1") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Attach(ctx, ns, spec("one", "172.25.0.130")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	if got := lines(node.Run("ip", "-br", "link")); strings.Count(got, "\n") != 0 {
		t.Errorf("links stayed behind on the node:\n%s", got)
	}
	if got := lines(pod.Run("ip", "-br", "link")); strings.Count(got, "\n") != 0 {
		t.Errorf("links stayed behind in the container:\n%s", got)
	}
}

func TestLeftoverOfOursIsReplaced(t *testing.T) {
	node, old, pod := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	w := newWirer(t, node)
	attach(t, w, open(t, w, old), spec("one", "172.25.0.130"))
	attach(t, w, open(t, w, pod), spec("one", "172.25.0.131"))
	if got := old.Run("ip", "-br", "link"); strings.Contains(got, "eth0") {
		t.Errorf("the leftover is still there:\n%s", got)
	}
	list, err := w.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Addresses[0].String() != "172.25.0.131" {
		t.Errorf("List: %v, %v", list, err)
	}
}

func TestNamespacePaths(t *testing.T) {
	node := netnstest.New(t)
	w := newWirer(t, node)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/nonexistent":         fs.ErrNotExist,
		file:                   ErrNoNamespace,
		fifo:                   ErrNoNamespace,
		"/":                    ErrNoNamespace,
		"/proc/self/ns/mnt":    ErrNoNamespace,
		node.Path():            ErrNodeNamespace,
		"/proc/self/ns/net":    nil,
		"/dev/null/impossible": unix.ENOTDIR,
	} {
		ns, err := w.OpenNamespace(path)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
		if err == nil {
			_ = ns.Close()
		}
	}
}

func TestDoomAndSweep(t *testing.T) {
	node := netnstest.New(t)
	w := newWirer(t, node)
	const n = 5
	var pods []*netnstest.NS
	for i := range n {
		pods = append(pods, netnstest.New(t))
		attach(t, w, open(t, w, pods[i]), spec(string(rune('a'+i)), "172.25.0.130"))
	}
	node.Run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
	for i := range n - 1 {
		l, found, err := w.Doom(t.Context(), string(rune('a'+i)), "eth0")
		if err != nil || !found || !l.Doomed || l.Addresses[0].String() != "172.25.0.130" {
			t.Fatalf("Doom: %+v, %v, %v", l, found, err)
		}
	}
	if _, found, err := w.Doom(t.Context(), "nobody", "eth0"); found || err != nil {
		t.Errorf("Doom of nobody: %v, %v", found, err)
	}
	list, err := newWirer(t, node).List(t.Context()) // what another process would see
	doomed := 0
	for _, l := range list {
		if l.Doomed {
			doomed++
		}
	}
	if err != nil || len(list) != n || doomed != n-1 {
		t.Fatalf("List: %v, %v", list, err)
	}
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err = w.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Doomed || list[0].ContainerID != "e" {
		t.Errorf("List after Sweep: %v, %v", list, err)
	}
	if got := node.Run("ip", "-br", "link"); !strings.Contains(got, "other0") {
		t.Errorf("a foreign link went:\n%s", got)
	}
	if got := pods[0].Run("ip", "-br", "link"); strings.Contains(got, "eth0") {
		t.Errorf("the container still has its interface:\n%s", got)
	}
}

func TestDoomSparesForeigners(t *testing.T) {
	node := netnstest.New(t)
	w := newWirer(t, node)
	name := HostEnd("one", "eth0")
	node.Run("ip", "link", "add", name, "type", "veth", "peer", "name", "x0")
	for _, alias := range []string{"mine", "godwit godwit two eth0 172.25.0.131"} {
		node.Run("ip", "link", "set", name, "alias", alias)
		if _, found, err := w.Doom(t.Context(), "one", "eth0"); found || err != nil {
			t.Errorf("%v, %v", found, err)
		}
		if got := lines(node.Run("cat", "/sys/class/net/"+name+"/ifalias")); got != alias {
			t.Errorf("alias %q became %q", alias, got)
		}
	}
}

func TestSweepSparesForeignersInTheGroup(t *testing.T) {
	node, one, two := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	w := newWirer(t, node)
	attach(t, w, open(t, w, one), spec("one", "172.25.0.130"))
	attach(t, w, open(t, w, two), spec("two", "172.25.0.131"))
	node.Run("ip", "link", "add", "other0", "group", "1735882801", "type", "veth", "peer", "name", "other1")
	for _, id := range []string{"one", "two"} {
		if _, found, err := w.Doom(t.Context(), id, "eth0"); err != nil || !found {
			t.Fatal(found, err)
		}
	}
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := node.Run("ip", "-br", "link")
	if !strings.Contains(got, "other0") || strings.Contains(got, "gw") {
		t.Errorf("links after Sweep:\n%s", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	node := netnstest.New(t)
	w := newWirer(t, node)
	const n = 30
	pods := make([]*Namespace, n)
	for i := range pods {
		pods[i] = open(t, w, netnstest.New(t))
	}
	var wg sync.WaitGroup
	for i, ns := range pods {
		wg.Go(func() {
			s := spec("c"+string(rune('A'+i)), "172.25.0.130")
			if _, err := w.Attach(context.WithoutCancel(t.Context()), ns, s); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if _, _, err := w.Doom(t.Context(), s.ContainerID, "eth0"); err != nil {
					t.Error(err)
				}
				if err := w.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if list, err := w.List(t.Context()); err != nil || len(list) != n/2 {
		t.Errorf("%d attachments, want %d (%v)", len(list), n/2, err)
	}
}
