package scale

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/scale/usage"
)

// joins lets nodes join one by one.
func (r *run) joins(ctx context.Context) error {
	for range r.o.Joins {
		i := r.made
		r.made++
		e, err := r.event(ctx, "node joins", func(ctx context.Context) error { return r.add(ctx, i, true) })
		if err != nil {
			return err
		}
		r.report.Events = append(r.report.Events, e)
	}
	return nil
}

// events does what changes a cluster, one thing at a time.
func (r *run) events(ctx context.Context) error {
	if r.o.Joins == 0 {
		return nil
	}
	last := r.nodes[len(r.nodes)-1]
	peer := &v1alpha1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: "router"},
		Spec: v1alpha1.BGPPeerSpec{
			PeerAddress: "10.127.255.1", PeerASN: 64600,
			NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/hostname": last.name}},
		},
	}
	change := func(f func()) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := r.api.Get(ctx, client.ObjectKeyFromObject(peer), peer); err != nil {
				return err
			}
			f()
			return r.api.Update(ctx, peer)
		}
	}
	for _, e := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"block claimed", func(ctx context.Context) error { return r.claim(ctx, last, 0, 16000-r.o.Nodes) }},
		{"peer of one node added", func(ctx context.Context) error { return r.api.Create(ctx, peer) }},
		{"peer of one node changed", change(func() { peer.Spec.PeerASN = 64601 })},
		{"peer given to all nodes", change(func() { peer.Spec.NodeSelector = nil })},
		{"node leaves", func(ctx context.Context) error {
			r.mu.Lock()
			r.nodes = r.nodes[:len(r.nodes)-1]
			r.mu.Unlock()
			return errors.Join(last.stop(), r.api.Delete(ctx, last.object(0)))
		}},
	} {
		got, err := r.event(ctx, e.name, e.do)
		if err != nil {
			return err
		}
		r.report.Events = append(r.report.Events, got)
	}
	return nil
}

// event does something and measures what comes of it, until nothing more does.
func (r *run) event(ctx context.Context, name string, do func(context.Context) error) (Event, error) {
	r.say("%s", name)
	e := Event{Name: name}
	known, err := r.reflecting(ctx)
	if err != nil {
		return e, err
	}
	before := r.traffic()
	_, writes, deletes, _ := r.plans.snapshot()
	controller, err := usage.OfProcess(r.Group, controllerName)
	if err != nil {
		return e, err
	}
	began := time.Now()
	if err := do(ctx); err != nil {
		return e, err
	}
	if err := r.waitPlanned(ctx); err != nil {
		return e, err
	}
	if err := r.waitQuiet(ctx); err != nil {
		return e, err
	}
	_, nowWrites, nowDeletes, last := r.plans.snapshot()
	e.Writes, e.Deletes, e.Written = nowWrites-writes, nowDeletes-deletes, last.Sub(began)
	for n, t := range r.traffic() {
		was, old := before[n]
		if !old {
			e.Placed = n.placed.Sub(n.joined)
			continue
		}
		kind := &e.Clients
		if known[n.name] {
			kind = &e.Reflectors
		}
		kind.add(t.minus(was))
	}
	e.Controller, err = r.since(controller)
	return e, err
}
