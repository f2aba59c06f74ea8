package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
)

// upSince is when a session came up, and how often it went down.
type upSince struct {
	time  string
	flaps int32
}

// sessionsUp lists the sessions of all nodes, all of which must be established.
func sessionsUp(ctx context.Context, l *lab.Lab) (map[string]upSince, error) {
	if err := l.CheckEstablished(ctx); err != nil {
		return nil, err
	}
	api, err := l.API()
	if err != nil {
		return nil, err
	}
	var list v1alpha1.NodeNetworkList
	if err := api.List(ctx, &list); err != nil {
		return nil, err
	}
	up := map[string]upSince{}
	for _, nn := range list.Items {
		for _, s := range nn.Status.Sessions {
			if s.Since == nil {
				return nil, fmt.Errorf("%s–%s has never been up", nn.Name, s.Name)
			}
			up[nn.Name+"–"+s.Name] = upSince{s.Since.UTC().Format(time.TimeOnly), s.Flaps}
		}
	}
	return up, nil
}

// testOnePeer changes one of many peers: its description, its filter, its timers
// and its password. The sessions of others stay up, and its own where they can.
func testOnePeer(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 90*time.Second)
	const name = "tor1"
	var before map[string]upSince
	eventually(t, 20*time.Second, "all sessions are up", func() (err error) {
		before, err = sessionsUp(ctx, l)
		return err
	})
	flow := startFlow(t, l)
	change := func(how func(*v1alpha1.BGPPeerSpec)) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.BGPPeer{}, name, func(o client.Object) { how(&o.(*v1alpha1.BGPPeer).Spec) }); err != nil {
			t.Fatal(err)
		}
	}
	// compare expects that the peer's sessions were reset so many times, and no others.
	compare := func(what string, resets int32) {
		t.Helper()
		eventually(t, 30*time.Second, what, func() error {
			now, err := sessionsUp(ctx, l)
			if err != nil {
				return err
			}
			for session, was := range before {
				is := now[session]
				switch mine := strings.HasSuffix(session, "–"+name); {
				case mine && is.flaps != was.flaps+resets:
					return fmt.Errorf("%s went down %d times, want %d", session, is.flaps, was.flaps+resets)
				case !mine && is != was:
					t.Fatalf("%s: %s was up since %s and went down %d times, now %s and %d", what, session, was.time, was.flaps, is.time, is.flaps)
				}
			}
			return nil
		})
	}

	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	prefer := &v1alpha1.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "prefer"}}
	hosts := l.Top.HostRange.V4
	prefer.Spec.Rules = []v1alpha1.BGPFilterRule{{
		CIDR: hosts.String(), MaxLength: new(int32(hosts.Addr().BitLen())), Action: v1alpha1.FilterAccept,
		Set: &v1alpha1.RouteAttributes{LocalPref: new(int64(200))},
	}}
	if err := api.Create(ctx, prefer); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "both routers lead to host3", ways(l, "n1", 2))
	var filters []string
	change(func(s *v1alpha1.BGPPeerSpec) {
		s.Description = "the left one"
		filters, s.ImportFilters = s.ImportFilters, append([]string{prefer.Name}, s.ImportFilters...)
	})
	eventually(t, 5*time.Second, "the preferred router leads to host3", ways(l, "n1", 1))
	compare("description and filter", 0)
	change(func(s *v1alpha1.BGPPeerSpec) { s.ImportFilters = filters })
	eventually(t, 5*time.Second, "both routers lead to host3 again", ways(l, "n1", 2))
	compare("filter", 0)

	change(func(s *v1alpha1.BGPPeerSpec) { s.Timers = &v1alpha1.BGPTimers{HoldSeconds: new(int32(30))} })
	compare("timers", 1)
	change(func(s *v1alpha1.BGPPeerSpec) { s.Timers = nil })
	compare("timers as before", 2)

	// The router keeps the old password, so the session stays down until it is back.
	secret := &corev1.Secret{}
	if err := api.Get(ctx, client.ObjectKey{Namespace: lab.SystemNamespace, Name: "bgp-passwords"}, secret); err != nil {
		t.Fatal(err)
	}
	secret.Data["another"] = []byte("another")
	if err := api.Update(ctx, secret); err != nil {
		t.Fatal(err)
	}
	change(func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef.Key = "another" })
	eventually(t, 20*time.Second, "no session with another password", func() error {
		if err := l.CheckEstablished(ctx); err == nil || strings.Count(err.Error(), "–"+name+":") != len(l.Top.Nodes) {
			return fmt.Errorf("not established: %w", err)
		}
		return nil
	})
	change(func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef.Key = name })
	// The sessions were up only once.
	compare("password", 3)
	change(func(s *v1alpha1.BGPPeerSpec) { s.Description = "" })
	if err := api.Delete(ctx, prefer); err != nil {
		t.Fatal(err)
	}
	flow.stop(t)
	t.Logf("%d of %d sessions kept their uptime", len(before)-len(l.Top.Nodes), len(before))
}
