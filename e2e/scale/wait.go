package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// traffic returns what each agent has exchanged so far.
func (r *run) traffic() map[*node]Traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[*node]Traffic, len(r.nodes))
	for _, n := range r.nodes {
		if t := n.meter.read(); t != (Traffic{}) { // else it has no agent
			all[n] = t
		}
	}
	return all
}

// poll waits until check has nothing to say against it.
func (r *run) poll(ctx context.Context, what string, check func() string) error {
	ctx, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	said := time.Now()
	for {
		why := check()
		if why == "" {
			return nil
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			r.say("waiting for %s: %s", what, why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s (%w)", what, why, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitPlanned waits until each node has a plan, no plan is written any more, and
// each agent has carried its newest out.
func (r *run) waitPlanned(ctx context.Context) error {
	return r.poll(ctx, "plans in place", func() string {
		known, _, _, last := r.plans.snapshot()
		r.mu.Lock()
		defer r.mu.Unlock()
		lacking, behind := 0, 0
		for _, n := range r.nodes {
			generation, there := known[n.name]
			switch {
			case !there:
				lacking++
			case n.running() && !n.current(generation):
				behind++
			}
		}
		quiet := time.Since(last)
		if lacking+behind == 0 && quiet >= planQuiet {
			return ""
		}
		return fmt.Sprintf("%d nodes have no plan, %d have not carried out theirs; the last plan was written %v ago", lacking, behind, quiet.Round(time.Second))
	})
}

// waitQuiet waits until no agent has exchanged anything but what keeps its
// connection and watches for a while.
func (r *run) waitQuiet(ctx context.Context) error {
	sum := func() (n int64) {
		for _, t := range r.traffic() {
			n += t.Requests + t.Events
		}
		return n
	}
	last, since := sum(), time.Now()
	return r.poll(ctx, "quiet", func() string {
		if now := sum(); now != last {
			last, since = now, time.Now()
		}
		if quiet := time.Since(since); quiet < trafficQuiet {
			return fmt.Sprintf("the last request was %v ago", quiet.Round(time.Second))
		}
		return ""
	})
}

// waitSessions waits until each agent's sessions with nodes that have one are
// established, as it reports.
func (r *run) waitSessions(ctx context.Context) error {
	speaks := make(map[string]bool)
	for _, n := range r.nodes {
		speaks[n.name] = n.running()
	}
	return r.poll(ctx, "sessions", func() string {
		var list v1alpha1.NodeNetworkList
		if err := r.api.List(ctx, &list); err != nil {
			return err.Error()
		}
		down := 0
		for i := range list.Items {
			for _, s := range list.Items[i].Status.Sessions {
				if s.Kind == v1alpha1.SessionNode && speaks[s.Name] && s.State != "Established" {
					down++
				}
			}
		}
		if down > 0 {
			return fmt.Sprintf("%d are down", down)
		}
		return ""
	})
}

// reflecting returns the nodes that are reflectors.
func (r *run) reflecting(ctx context.Context) (map[string]bool, error) {
	var list v1alpha1.NodeNetworkList
	if err := r.api.List(ctx, &list); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range list.Items {
		if list.Items[i].Spec.Reflector {
			names[list.Items[i].Name] = true
		}
	}
	return names, nil
}

// objects takes down how many reflectors there are, and how large the plans of
// nodes are, with what agents report, in JSON.
func (r *run) objects(ctx context.Context) error {
	var list v1alpha1.NodeNetworkList
	if err := r.api.List(ctx, &list); err != nil {
		return err
	}
	r.report.Reflectors = 0
	for i := range list.Items {
		nn := &list.Items[i]
		raw, err := json.Marshal(nn)
		if err != nil {
			return err
		}
		size := &r.report.ClientObject
		if nn.Spec.Reflector {
			r.report.Reflectors++
			size = &r.report.ReflectorObject
		}
		*size = max(*size, len(raw))
		nn.ManagedFields = nil
		if raw, err = json.Marshal(nn); err != nil {
			return err
		}
		r.report.Unmanaged = max(r.report.Unmanaged, len(raw))
	}
	return nil
}

// settleTimes takes the times from joins to plans from the nodes.
func (r *run) settleTimes(s *JoinReport) {
	var planned, placed []time.Duration
	r.plans.mu.Lock()
	defer r.plans.mu.Unlock()
	for _, n := range r.nodes {
		planned = append(planned, r.plans.created[n.name].Sub(n.joined))
		if n.running() {
			n.mu.Lock()
			placed = append(placed, n.placed.Sub(n.joined))
			n.mu.Unlock()
		}
	}
	s.Planned, s.Placed = spreadOf(planned), spreadOf(placed)
}

// spreadOf returns the middle and the longest of some times.
func spreadOf(times []time.Duration) Spread {
	if len(times) == 0 {
		return Spread{}
	}
	slices.Sort(times)
	return Spread{Median: times[len(times)/2], P99: times[len(times)*99/100], Max: times[len(times)-1]}
}

// running tells whether the node has an agent.
func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cancel != nil
}

// blockOf is the k-th block of a pool.
func blockOf(pool, k int) netip.Prefix {
	a := poolRange(pool).Addr().As4()
	a[1], a[2], a[3] = a[1]+byte(k>>10), byte(k>>2), byte(k<<6)
	return netip.PrefixFrom(netip.AddrFrom4(a), 26)
}
