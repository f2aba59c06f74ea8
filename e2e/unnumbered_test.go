package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	frr "github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/routewatch"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// What is behind the leaf router of testUnnumbered, on its loopback.
const leafV4, leafV6 = "10.77.0.1", "fd77::1"

const leafConf = `router bgp 65100
 bgp router-id 10.77.0.1
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor swp1 interface remote-as external
 neighbor swp1 timers connect 3
 address-family ipv4 unicast
  network 10.77.0.1/32
 exit-address-family
 address-family ipv6 unicast
  network fd77::1/128
  neighbor swp1 activate
 exit-address-family
`

// leaf is an FRR at the other end of n1's interface leaf0, on which nobody has
// addresses but link-local ones.
type leaf struct {
	l  *lab.Lab
	ns *netnstest.NS
	r  *frr.Router
}

func (f *leaf) connect() {
	f.ns.Run("ip", "link", "add", "swp1", "type", "veth", "peer", "name", "leaf0", "netns", f.l.Top.Namespace("n1"))
	f.ns.Run("ip", "link", "set", "swp1", "up")
	f.ns.Run("ip", "-n", f.l.Top.Namespace("n1"), "link", "set", "leaf0", "up")
}

// startLeaf starts the router and tells n1 of it.
func startLeaf(ctx context.Context, t *testing.T, l *lab.Lab) *leaf {
	t.Helper()
	f := &leaf{l: l, ns: netnstest.New(t)}
	f.ns.Run("ip", "addr", "add", leafV4+"/32", "dev", "lo")
	f.ns.Run("ip", "addr", "add", leafV6+"/128", "dev", "lo", "nodad")
	f.connect()
	dir, err := os.MkdirTemp("", "godwit-leaf-") // FRR's user can't enter the parent of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r, err := frr.StartFRR(ctx, f.ns.Name, dir, leafConf)
	if err != nil {
		t.Fatal(err)
	}
	f.r = r
	t.Cleanup(func() {
		if t.Failed() {
			out, err := r.Show(context.WithoutCancel(ctx), "show bgp summary")
			t.Logf("the leaf: %v: %s%s", err, out, r.Log())
		}
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})

	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{
		&v1alpha1.BGPFilter{
			ObjectMeta: metav1.ObjectMeta{Name: "leaf"},
			Spec:       v1alpha1.BGPFilterSpec{Rules: []v1alpha1.BGPFilterRule{{CIDR: leafV4 + "/32", Action: v1alpha1.FilterAccept}, {CIDR: leafV6 + "/128", Action: v1alpha1.FilterAccept}}},
		},
		&v1alpha1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: "leaf"},
			Spec: v1alpha1.BGPPeerSpec{
				PeerInterface: "leaf0", PeerASN: 65100, ImportFilters: []string{"leaf"},
				NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: "n1"}},
			},
		},
	} {
		if err := api.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.IgnoreNotFound(api.Delete(context.WithoutCancel(ctx), o)); err != nil {
				t.Error(err)
			}
		})
	}
	return f
}

// session is what n1 reports of its session with the leaf.
func (f *leaf) session(ctx context.Context) (v1alpha1.SessionStatus, error) {
	var nn v1alpha1.NodeNetwork
	api, err := f.l.API()
	if err == nil {
		err = api.Get(ctx, client.ObjectKey{Name: "n1"}, &nn)
	}
	if err != nil {
		return v1alpha1.SessionStatus{}, err
	}
	i := slices.IndexFunc(nn.Status.Sessions, func(s v1alpha1.SessionStatus) bool { return s.PeerInterface == "leaf0" })
	if i < 0 {
		return v1alpha1.SessionStatus{}, fmt.Errorf("n1 reports no session at leaf0: %+v", nn.Status.Sessions)
	}
	return nn.Status.Sessions[i], nil
}

// works waits until routes of both families are in both kernels, by way of
// link-local addresses, and packets take them.
func (f *leaf) works(ctx context.Context, t *testing.T) {
	t.Helper()
	took := eventually(t, 40*time.Second, "n1 has the leaf's route", contains(f.l, "n1", "ip route show "+leafV4, "via inet6 fe80::", true))
	t.Logf("n1 has the leaf's route after %v: %s", took, run(t, f.l, "n1", "ip route show "+leafV4))
	for _, one := range []struct{ command, want string }{
		{"ip route show " + leafV4, "dev leaf0"},
		{"ip -6 route show " + leafV6, "via fe80::"},
		{"ip -6 route show " + leafV6, "dev leaf0"},
	} {
		eventually(t, 10*time.Second, one.command, contains(f.l, "n1", one.command, one.want, true))
	}
	block := nodeOf(t, f.l, "n1").Block
	eventually(t, 20*time.Second, "the leaf has n1's block", func() error { return f.has("-4", block.V4, "via inet6 fe80::") })
	eventually(t, 20*time.Second, "the leaf has n1's block of IPv6", func() error { return f.has("-6", block.V6, "via fe80::") })
	eventually(t, 10*time.Second, "the session is reported", func() error {
		s, err := f.session(ctx)
		if err == nil && (s.State != "Established" || !strings.HasPrefix(s.PeerAddress, "fe80::") || !strings.HasSuffix(s.PeerAddress, "%leaf0") || s.Accepted != 2) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	for _, a := range pod(t, f.l, "n1-p1").Addresses {
		from := leafV4
		if a.Is6() {
			from = leafV6
		}
		f.ns.Run("ping", "-c", "1", "-W", "5", "-I", from, a.String())
	}
}

// has asks whether the leaf's kernel has a route with a text in it.
func (f *leaf) has(family string, to netip.Prefix, text string) error {
	if out := f.ns.Run("ip", family, "route", "show", to.String()); !strings.Contains(out, text) {
		return fmt.Errorf("the route to %v is %q", to, out)
	}
	return nil
}

// testUnnumbered has a session by the name of an interface, restarts the agent,
// which the router must not notice, and takes the interface away and makes it anew.
func testUnnumbered(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 3*time.Minute)
	f := startLeaf(ctx, t, l)
	f.works(ctx, t)

	blocks := nodeOf(t, l, "n1").Block.Each()
	w, err := routewatch.Start(f.ns.Name, blocks)
	if err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	if err := l.Group.Stop(ctx, lab.AgentProcess("n1")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, time.Minute, "the session is back after the agent's restart", func() error {
		s, err := f.session(ctx)
		if err == nil && (s.State != "Established" || s.Since.Time.Before(stopped.Truncate(time.Second)) || s.Accepted != 2) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	missing, asked, err := w.Stop()
	if err != nil || len(missing) > 0 || asked == 0 {
		t.Errorf("the leaf missed routes %d times, of %d asked, while the agent restarted: %v: %v", len(missing), asked, err, missing[:min(len(missing), few)])
	}
	t.Logf("the session is back %v after the agent's restart", took)
	// It said that it restarted, without which the leaf may drop what it had: the
	// first configuration of the speaker was with the leaf.
	if out, err := f.r.Show(ctx, "show bgp neighbors swp1"); err != nil || !strings.Contains(out, "R bit: True") {
		t.Errorf("the leaf was not told of the restart: %v:\n%s", err, out)
	}
	f.works(ctx, t)

	run(t, l, "n1", "ip link del leaf0")
	eventually(t, 20*time.Second, "the interface is missed", func() error {
		s, err := f.session(ctx)
		if err == nil && (s.State != "Idle" || s.PeerAddress != "%leaf0" || s.Message != "the node has no interface leaf0") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	f.connect()
	f.works(ctx, t)

	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(ctx, &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "leaf"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "n1 has no route of the leaf any more", contains(l, "n1", "ip route show "+leafV4, "leaf0", false))
	eventually(t, 20*time.Second, "the leaf has no route of n1 any more", func() error {
		if f.has("-4", blocks[0], "fe80::") == nil {
			return fmt.Errorf("it has one to %v", blocks[0])
		}
		return nil
	})
	if err := l.WaitConverged(ctx); err != nil {
		t.Error(err)
	}
}
