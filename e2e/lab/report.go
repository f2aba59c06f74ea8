package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/godwit-net/godwit/e2e/capture"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/topology"
)

// The pods of the reference topology that the report looks at.
const (
	showNode   = "n1"
	showPod    = "n1-p3" // 172.25.0.130
	showTarget = "n2-p4" // 172.25.0.195
	showFar    = "n3-p2" // of the node that may be in another subnet
)

// Report shows the lab to a person: what is there, who knows which routes,
// who reaches whom. It returns what is not as it should be.
func (l *Lab) Report(ctx context.Context, p *Progress) error {
	p.Heading("The rack: " + l.Options.String())
	p.Block(l.picture())
	errs := []error{l.show(ctx, p, "Nodes, sessions, blocks and pools: godwitctl status", l.Status)}
	for _, machine := range []string{showNode, showPod} {
		kind := map[string]string{showNode: "Node ", showPod: "Pod "}[machine]
		for _, f := range l.Options.Family.Each() {
			command := "ip route"
			if f == topology.IPv6 {
				command = "ip -6 route"
			}
			errs = append(errs, l.show(ctx, p, kind+machine+": "+command, func(ctx context.Context) (string, error) {
				return l.RunIn(ctx, machine, "ip", f.Flag(), "route")
			}))
		}
	}
	for _, device := range l.tunnelDevices() {
		errs = append(errs, l.show(ctx, p, "Node "+showNode+": ip -d link show "+device, func(ctx context.Context) (string, error) {
			return l.RunIn(ctx, showNode, "ip", "-d", "link", "show", device)
		}))
	}
	for i, r := range l.Routers {
		for _, pool := range l.Top.Pool.Each() {
			title, view, err := r.Blocks(ctx, pool)
			errs = append(errs, err)
			p.Heading(fmt.Sprintf("Router %s (%s): %s", l.Top.ToRs[i].Name, r.Program(ctx), title))
			p.Block(view)
		}
	}
	m := l.PingMatrix(ctx)
	tried, failed := m.Count()
	p.Heading(fmt.Sprintf("Who reaches whom: %d of %d pings answered", tried-failed, tried))
	p.Block(m.String())
	errs = append(errs, m.Err())
	for _, f := range l.Options.Family.Each() {
		errs = append(errs, l.showTrace(ctx, p, f))
	}
	if len(l.tunnelDevices()) > 0 {
		for _, f := range l.Options.Family.Each() {
			errs = append(errs, l.showCapture(ctx, p, f))
		}
	}
	errs = append(errs, l.CheckEstablished(ctx))
	return errors.Join(errs...)
}

func (l *Lab) show(ctx context.Context, p *Progress, title string, ask func(context.Context) (string, error)) error {
	out, err := ask(ctx)
	p.Heading(title)
	p.Block(out)
	return err
}

// shown returns the pods that the report looks at, with their addresses of a
// family.
func (l *Lab) shown(name string, f topology.Family) (Endpoint, error) {
	p, err := l.Pod(name)
	if err != nil {
		return Endpoint{}, err
	}
	a, ok := p.Of(f == topology.IPv6)
	if !ok {
		return Endpoint{}, fmt.Errorf("pod %s has no %s address", name, f)
	}
	return Endpoint{Name: name, Address: a}, nil
}

func (l *Lab) showTrace(ctx context.Context, p *Progress, f topology.Family) error {
	from, err := l.shown(showPod, f)
	if err != nil {
		return err
	}
	to, err := l.shown(showTarget, f)
	if err != nil {
		return err
	}
	hops, err := l.Trace(ctx, from, to.Address)
	p.Heading(fmt.Sprintf("A packet from pod %s (%s) to pod %s (%s)", from.Name, from.Address, to.Name, to.Address))
	p.Block(FormatTrace(hops))
	return err
}

// showCapture shows what a ping between pods of different nodes looks like on
// the wire between the nodes.
func (l *Lab) showCapture(ctx context.Context, p *Progress, f topology.Family) error {
	from, err := l.shown(showPod, f)
	if err != nil {
		return err
	}
	var errs []error
	var lines []string
	for _, name := range []string{showTarget, showFar} {
		to, err := l.shown(name, f)
		if err != nil {
			return err
		}
		packets, err := l.Capture(showNode, func() error {
			_, err := l.Ping(ctx, from.Name, to.Address)
			return err
		})
		errs = append(errs, err)
		line := "nothing"
		if one, ok := Between(packets, from.Address, to.Address); ok {
			line = one.String()
		}
		lines = append(lines, fmt.Sprintf("%s to %s: %s", from.Name, to.Name, line))
	}
	p.Heading(fmt.Sprintf("On the wire of %s (%s)", showNode, f))
	p.Block(strings.Join(lines, "\n"))
	return errors.Join(errs...)
}

// Capture records what passes a node's link to the fabric while something is
// done.
func (l *Lab) Capture(node string, do func() error) ([]capture.Packet, error) {
	return capture.During(capture.Config{
		Netns: l.Top.Namespace(node), Interface: uplink, VXLANPort: uint16(l.Options.port()),
	}, do)
}

// Between returns the first packet that is, or holds, one from an address to
// another.
func Between(packets []capture.Packet, from, to netip.Addr) (capture.Packet, bool) {
	for _, p := range packets {
		for in := &p; in != nil; in = in.Inner {
			if in.Src == from && in.Dst == to {
				return p, true
			}
		}
	}
	return capture.Packet{}, false
}

// Status is what godwitctl status prints.
func (l *Lab) Status(ctx context.Context) (string, error) {
	path, err := l.Program("godwitctl")
	if err != nil {
		return "", err
	}
	return namespace.Run(ctx, l.CP.Netns, path, "status", "--kubeconfig", l.Kubeconfig())
}

// picture draws the lab. Where there are two subnets, n3 is behind gw.
func (l *Lab) picture() string {
	host := func(i int) string {
		h := l.Top.Hosts[i]
		return fmt.Sprintf("%s %s", h.Name, h.Address.First())
	}
	tor := func(i int) string {
		t := l.Top.ToRs[i]
		return fmt.Sprintf("%s %s · AS %d · %s", t.Name, t.Address.First(), t.ASN, []string{"BIRD", "FRR"}[i%2])
	}
	node := func(i int) string {
		n := l.Top.Nodes[i]
		if n.Subnet > 0 {
			return fmt.Sprintf("gw ── %s %s · pods %s", n.Name, n.Address.First(), n.Block.Each()[0])
		}
		return fmt.Sprintf("%s %-13s · AS %d · pods %s", n.Name, n.Address.First(), l.Top.NodeASN, n.Block.Each()[0])
	}
	// IPv6 addresses are wider.
	left, right := 20, 34
	for i := range l.Top.Hosts {
		left = max(left, utf8.RuneCountInString(host(i)))
	}
	for i := range l.Top.ToRs {
		right = max(right, utf8.RuneCountInString(tor(i)))
	}
	gap := strings.Repeat(" ", right+2)
	lines := []string{
		fmt.Sprintf("%-*s ─── %-*s ─┐   ┌─ %s", left, host(0), right, tor(0), node(0)),
		fmt.Sprintf("%s  ┌─┘%s│   │", strings.Repeat(" ", left), gap),
		fmt.Sprintf("%-*s ─┤  %s├───┼─ %s", left, host(2), gap, node(1)),
		fmt.Sprintf("%s  └─┐%s│   │", strings.Repeat(" ", left), gap),
		fmt.Sprintf("%-*s ─── %-*s ─┘   └─ %s", left, host(1), right, tor(1), node(2)),
	}
	if l.Options.Family == topology.Dual {
		lines = append(lines, "", "and the same in IPv6, such as "+l.Top.Nodes[0].Address.V6.Addr().String()+" with pods "+l.Top.Nodes[0].Block.V6.String())
	}
	return strings.Join(lines, "\n")
}

// Hints tells a person what to do next.
func (l *Lab) Hints(p *Progress) {
	kubeconfig := l.LocalKubeconfig()
	if l.Proxy == "" {
		kubeconfig = l.Kubeconfig()
	}
	vm, where := "", "any shell"
	if os.Getenv("GODWIT_VM") == "1" {
		vm, where = " VM=1", "its shells"
	}
	p.Heading(fmt.Sprintf("The lab is up after %.0f s, and stays up. To play with it:", p.Elapsed().Seconds()))
	p.Block(strings.TrimSpace(fmt.Sprintf(`
%-35s a shell on node n1; also tor1, host1, fabric, pod n1-p3, …
export KUBECONFIG=%s
kubectl get nodenetworks,ipblocks   and godwitctl status, from %s with .cache/bin and bin in PATH
make lab-down                       ends it and leaves nothing behind
logs: %s/`, "make lab-shell NODE=n1"+vm, kubeconfig, where, l.path("log"))))
}
