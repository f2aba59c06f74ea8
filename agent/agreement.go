package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// agreementInterval is how often an agent compares what it knows of its pods'
// addresses with what the kernel has. What is found twice in a row is reported:
// pods come and go meanwhile.
const agreementInterval = 10 * time.Second

// local is what a node's sources say of its pods' addresses.
type local struct {
	records []ipam.Record
	blocks  []ipam.BlockUsage
	lost    []ipam.BlockUsage // blocks that turned out to be other nodes'
	links   []wire.Link
	ways    map[netip.Addr]string // the link by which the kernel sends packets to an address of a link; "": by none
}

// compare names what does not agree, sorted by object. It is pure.
func (l *local) compare() []v1alpha1.Difference {
	var out []v1alpha1.Difference
	differ := func(object, format string, args ...any) {
		out = append(out, v1alpha1.Difference{Object: object, Message: fmt.Sprintf(format, args...)})
	}
	linked := map[ipam.Owner]bool{}
	users := map[netip.Addr]wire.Link{}
	records := map[netip.Addr]ipam.Record{}
	for _, r := range l.records {
		records[r.Address] = r
	}
	for _, link := range l.links {
		owner := ipam.Owner{ContainerID: link.ContainerID, Interface: link.Interface}
		linked[owner] = true
		if link.Doomed {
			differ(link.HostEnd, "the link of container %s was given up and is still there: the agent's log says why", short(link.ContainerID))
			continue
		}
		for _, a := range link.Addresses {
			r, recorded := records[a]
			other, twice := users[a]
			switch {
			case twice:
				differ(a.String(), "the links %s and %s both have it: delete the pod of container %s or %s",
					other.HostEnd, link.HostEnd, short(other.ContainerID), short(link.ContainerID))
			case !recorded:
				differ(a.String(), "container %s has it on link %s, and there is no record of it: restart the agent, which makes one",
					short(link.ContainerID), link.HostEnd)
			case r.Owner != owner:
				differ(a.String(), "container %s has it on link %s, but it is on record as that of container %s (%s): delete the pod of the former",
					short(link.ContainerID), link.HostEnd, short(r.Owner.ContainerID), r.Pod)
			}
			users[a] = link
			if way := l.ways[a]; way != link.HostEnd && !twice {
				differ(a.String(), "packets to it leave by %s and not by its pod's link %s: see `ip route get %s` and `ip rule`", orNone(way), link.HostEnd, a)
			}
		}
	}
	for _, r := range l.records {
		switch {
		case r.Owner.IsNode():
		case !linked[r.Owner]:
			differ(r.Address.String(), "it is on record as that of container %s (%s), which has no link: it is free when the runtime deletes the container, or when the agent restarts",
				short(r.Owner.ContainerID), r.Pod)
		case !holds(l.blocks, r.Address) && !holds(l.lost, r.Address):
			differ(r.Address.String(), "the pod %s has it, and it is in none of the node's blocks, so that nobody else reaches it: delete the pod", r.Pod)
		}
	}
	for _, b := range l.lost {
		differ(b.CIDR.String(), "the node has given %d addresses of it to pods, but by its IPBlock it is another node's: it is neither announced nor given out here. "+
			"Delete these pods; or, if the other node does not use it, `kubectl delete ipblock %s`, and this node claims it again",
			b.Allocated, v1alpha1.IPBlockName(b.CIDR))
	}
	slices.SortFunc(out, func(a, b v1alpha1.Difference) int {
		if c := strings.Compare(a.Object, b.Object); c != 0 {
			return c
		}
		return strings.Compare(a.Message, b.Message)
	})
	return out
}

func holds(blocks []ipam.BlockUsage, a netip.Addr) bool {
	return slices.ContainsFunc(blocks, func(b ipam.BlockUsage) bool { return b.CIDR.Contains(a) })
}

// short is enough of a container id to find it by.
func short(containerID string) string { return containerID[:min(len(containerID), 12)] }

func orNone(link string) string {
	if link == "" {
		return "no link"
	}
	return link
}

// agreement finds out now and then what does not agree. Not for concurrent use.
type agreement struct {
	look   func(context.Context) (*local, error)
	looked time.Time
	before []v1alpha1.Difference // all that the last look found
	stays  []v1alpha1.Difference // of it, what the look before had found, too
}

// differences returns what does not agree and stays so. A look that fails
// changes nothing.
func (g *agreement) differences(ctx context.Context, now time.Time) []v1alpha1.Difference {
	if !g.looked.IsZero() && now.Sub(g.looked) < agreementInterval {
		return g.stays
	}
	l, err := g.look(ctx)
	if err != nil {
		return g.stays
	}
	g.looked = now
	found := l.compare()
	g.stays = nil
	for _, d := range found {
		if slices.Contains(g.before, d) {
			g.stays = append(g.stays, d)
		}
	}
	g.before = found
	return g.stays
}

// local looks at the node: links first, so that a pod that comes meanwhile is
// not taken for one that lost its link's record.
func (a *Agent) local(ctx context.Context) (*local, error) {
	links, err := a.kernel.Wirer.List(ctx)
	if err != nil {
		return nil, err
	}
	l := &local{
		links: links, records: a.addresses.Records(), blocks: a.addresses.Blocks(), lost: a.addresses.Lost(),
		ways: map[netip.Addr]string{},
	}
	names := map[int]string{}
	for _, link := range links {
		for _, addr := range link.Addresses {
			l.ways[addr] = wayTo(addr, names)
		}
	}
	return l, nil
}

// wayTo returns the name of the link by which the kernel sends packets to an
// address; "" where it has none. names are those of links that are known.
func wayTo(a netip.Addr, names map[int]string) string {
	found, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil || len(found) == 0 {
		return ""
	}
	index := found[0].LinkIndex
	if name, ok := names[index]; ok {
		return name
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	names[index] = link.Attrs().Name
	return names[index]
}
