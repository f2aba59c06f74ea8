package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// The pods of the reference topology that the report looks at.
const (
	showNode   = "n1"
	showPod    = "n1-p3" // 172.25.0.130
	showTarget = "n2-p4" // 172.25.0.195
)

// Report shows the lab to a person: what is there, who knows which routes,
// who reaches whom. It returns what is not as it should be.
func (l *Lab) Report(ctx context.Context, p *Progress) error {
	p.Heading("The rack")
	p.Block(l.picture())
	errs := []error{
		l.show(ctx, p, "Nodes, sessions, blocks and pools: godwitctl status", l.Status),
		l.show(ctx, p, "Node "+showNode+": ip route", func(ctx context.Context) (string, error) {
			return l.RunIn(ctx, showNode, "ip", "-4", "route")
		}),
		l.show(ctx, p, "Pod "+showPod+": ip route", func(ctx context.Context) (string, error) {
			return l.RunIn(ctx, showPod, "ip", "-4", "route")
		}),
	}
	for i, r := range l.Routers {
		title, view, err := r.Blocks(ctx)
		errs = append(errs, err)
		p.Heading(fmt.Sprintf("Router %s (%s): %s", l.Top.ToRs[i].Name, r.Program(ctx), title))
		p.Block(view)
	}
	m := l.PingMatrix(ctx)
	tried, failed := m.Count()
	p.Heading(fmt.Sprintf("Who reaches whom: %d of %d pings answered", tried-failed, tried))
	p.Block(m.String())
	errs = append(errs, m.Err(), l.showTrace(ctx, p), l.CheckEstablished(ctx))
	return errors.Join(errs...)
}

func (l *Lab) show(ctx context.Context, p *Progress, title string, ask func(context.Context) (string, error)) error {
	out, err := ask(ctx)
	p.Heading(title)
	p.Block(out)
	return err
}

func (l *Lab) showTrace(ctx context.Context, p *Progress) error {
	from, err := l.Pod(showPod)
	if err != nil {
		return err
	}
	to, err := l.Pod(showTarget)
	if err != nil {
		return err
	}
	hops, err := l.Trace(ctx, Endpoint{Name: from.Name, Address: from.Address}, to.Address)
	p.Heading(fmt.Sprintf("A packet from pod %s (%s) to pod %s (%s)", from.Name, from.Address, to.Name, to.Address))
	p.Block(FormatTrace(hops))
	return err
}

// Status is what godwitctl status prints.
func (l *Lab) Status(ctx context.Context) (string, error) {
	path, err := l.Program("godwitctl")
	if err != nil {
		return "", err
	}
	return namespace.Run(ctx, l.CP.Netns, path, "status", "--kubeconfig", l.Kubeconfig())
}

// picture draws the lab.
func (l *Lab) picture() string {
	host := func(i int) string {
		h := l.Top.Hosts[i]
		return fmt.Sprintf("%s %s", h.Name, h.Address.Addr())
	}
	tor := func(i int) string {
		t := l.Top.ToRs[i]
		return fmt.Sprintf("%s %s · AS %d · %s", t.Name, t.Address.Addr(), t.ASN, []string{"BIRD", "FRR"}[i%2])
	}
	node := func(i int) string {
		n := l.Top.Nodes[i]
		return fmt.Sprintf("%s %-13s · AS %d · pods %s", n.Name, n.Address.Addr(), l.Top.NodeASN, n.Block)
	}
	return fmt.Sprintf(`%-20s ─── %-34s ─┐   ┌─ %s
                      ┌─┘                                    │   │
%-20s ─┤                                      ├───┼─ %s
                      └─┐                                    │   │
%-20s ─── %-34s ─┘   └─ %s`,
		host(0), tor(0), node(0), host(2), node(1), host(1), tor(1), node(2))
}

// Hints tells a person what to do next.
func (l *Lab) Hints(p *Progress) {
	kubeconfig := l.LocalKubeconfig()
	if l.Proxy == "" {
		kubeconfig = l.Kubeconfig()
	}
	p.Heading(fmt.Sprintf("The lab is up after %.0f s, and stays up. To play with it:", p.Elapsed().Seconds()))
	p.Block(strings.TrimSpace(fmt.Sprintf(`
make lab-shell NODE=n1              a shell on node n1; also tor1, host1, fabric, pod n1-p3, …
export KUBECONFIG=%s
kubectl get nodenetworks,ipblocks   and godwitctl status, from any shell with .cache/bin and bin in PATH
make lab-down                       ends it and leaves nothing behind
logs: %s/`, kubeconfig, l.path("log"))))
}
