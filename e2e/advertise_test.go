package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
)

// testAdvertisement changes how a pool is announced, under traffic: with a named
// community, with the pool as a whole, and then only as a whole. The routers tell.
func testAdvertisement(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	advertise := func(a *v1alpha1.PoolAdvertisement) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.IPPool{}, lab.PoolOf(topology.IPv4), func(o client.Object) {
			o.(*v1alpha1.IPPool).Spec.Advertise = a
		}); err != nil {
			t.Fatal(err)
		}
	}
	config := &v1alpha1.BGPConfig{}
	name := func(cs ...v1alpha1.BGPCommunity) {
		t.Helper()
		if err := l.Change(ctx, config, "default", func(o client.Object) { o.(*v1alpha1.BGPConfig).Spec.Communities = cs }); err != nil {
			t.Fatal(err)
		}
	}
	whole, block := l.Top.Pool.V4.String(), l.Top.Nodes[0].Block.V4.String()
	// seen waits until each router says what it is to say of the pool and of a block.
	seen := func(what, community string, wantWhole, wantBlock bool) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() error {
			for i, command := range []string{"show route all where net ~ " + whole, "show bgp ipv4 unicast"} {
				out, err := l.Routers[i].Show(ctx, command)
				if err != nil {
					return err
				}
				if strings.Contains(out, whole+" ") != wantWhole || strings.Contains(out, block+" ") != wantBlock {
					return fmt.Errorf("%s: want %s %t, %s %t:\n%s", l.Top.ToRs[i].Name, whole, wantWhole, block, wantBlock, out)
				}
			}
			if community == "" {
				return nil
			}
			return communityOf(ctx, l, block, community)
		})
	}

	flow := startFlow(t, l)
	name(v1alpha1.BGPCommunity{Name: "pods", Value: "64512:77"})
	advertise(&v1alpha1.PoolAdvertisement{Communities: []string{"pods"}, Aggregate: true})
	seen("community and aggregate", "64512:77", true, true)
	hole := "blackhole " + whole
	for _, n := range []string{"n1", "n2"} {
		eventually(t, 5*time.Second, "the aggregate's blackhole on "+n, contains(l, n, "ip -4 route show type blackhole", hole, true))
	}
	advertise(&v1alpha1.PoolAdvertisement{Disabled: true, Aggregate: true})
	seen("the aggregate alone", "", true, false)
	advertise(nil)
	name()
	seen("as before", "", false, true)
	eventually(t, 5*time.Second, "no blackhole of the aggregate", contains(l, "n1", "ip -4 route show type blackhole", hole, false))
	flow.stop(t)
}

// communityOf asks both routers whether a route bears a community.
func communityOf(ctx context.Context, l *lab.Lab, prefix, community string) error {
	left, right, _ := strings.Cut(community, ":")
	for i, ask := range []struct{ command, say string }{
		{"show route all " + prefix, "(" + left + "," + right + ")"},
		{"show bgp ipv4 unicast " + prefix, community},
	} {
		out, err := l.Routers[i].Show(ctx, ask.command)
		if err != nil {
			return err
		}
		if !strings.Contains(out, ask.say) {
			return fmt.Errorf("%s: no %s:\n%s", ask.command, ask.say, out)
		}
	}
	return nil
}
