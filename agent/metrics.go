package agent

import (
	"cmp"
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/routes"
)

// scrapeTimeout bounds how long a scrape waits for the speaker.
const scrapeTimeout = 5 * time.Second

// measurement is what metrics are made from.
type measurement struct {
	version     string
	sessions    []bgp.Session
	sessionsErr error
	routes      routes.Status
	blocks      []ipam.BlockUsage
	ready       bool
	problems    int // of the plan and of carrying it out
}

// measure looks at the node for a scrape.
func (a *Agent) measure(ctx context.Context) measurement {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	m := measurement{version: a.o.Version, ready: a.ready() == nil, routes: a.table.Status(), blocks: a.addresses.Blocks()}
	m.sessions, m.sessionsErr = a.sessions(ctx)
	a.state.mu.Lock()
	defer a.state.mu.Unlock()
	m.problems = len(a.state.problems)
	return m
}

// collector is a prometheus.Collector that looks at the node when it is scraped
// and keeps nothing in between: what is gone is gone from the metrics, too.
type collector struct {
	measure func(context.Context) measurement
	now     func() time.Time

	build, ready, problems         *prometheus.Desc
	up, state, since, uptime       *prometheus.Desc
	received, accepted, advertised *prometheus.Desc
	flaps, restarting, warning     *prometheus.Desc
	refused                        *prometheus.Desc
	desired, installed             *prometheus.Desc
	failed, pending, nextHops      *prometheus.Desc
	blocks, allocated, capacity    *prometheus.Desc
}

func newCollector(measure func(context.Context) measurement, now func() time.Time) *collector {
	metric := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("godwit_"+name, help, labels, nil)
	}
	session := func(name, help string) *prometheus.Desc {
		return metric("bgp_session_"+name, help, "peer", "kind", "address")
	}
	return &collector{
		measure: measure, now: now,

		build:    metric("build_info", "1, labelled by the version of the agent.", "version", "goversion"),
		ready:    metric("ready", "1 when pods can be attached to the node's network."),
		problems: metric("plan_problems", "What of the node's plan is not carried out; status.conditions of the NodeNetwork says what."),

		up:         session("up", "1 when the BGP session is established."),
		state:      session("state", "State of the BGP session as in BGP4-MIB: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established."),
		since:      session("since_timestamp_seconds", "When the BGP session was established or, if it is not, when it last stopped being so; 0: it never was."),
		uptime:     session("uptime_seconds", "For how long the BGP session has been established; 0 when it is not."),
		received:   session("prefixes_received", "Prefixes that the peer has sent."),
		accepted:   session("prefixes_accepted", "Prefixes of the peer that were taken."),
		advertised: session("prefixes_advertised", "Prefixes that the peer was sent."),
		flaps:      session("flaps_total", "How many times the BGP session went down after it was established."),
		restarting: session("peer_restarting", "1 while the peer is away and its routes are kept (RFC 4724)."),
		warning:    session("warning", "1 when something about the established session is not as it should be; status.sessions of the NodeNetwork says what."),
		refused:    session("refused_origins", "Prefixes that the peer, a node, announces though it does not own them."),

		desired:   metric("routes_desired", "Routes that should be in the kernel.", "class"),
		installed: metric("routes_installed", "Routes that are in the kernel as they should be.", "class"),
		failed:    metric("routes_failed", "Routes that the kernel did not take."),
		pending:   metric("routes_pending", "Routes that wait for their next attempt."),
		nextHops:  metric("nexthop_objects", "Nexthop objects in the kernel, groups included."),

		blocks:    metric("blocks", "Blocks of addresses that the node owns.", "pool"),
		allocated: metric("addresses_allocated", "Addresses of the node's blocks that pods have.", "pool"),
		capacity:  metric("addresses_capacity", "Addresses of the node's blocks that can be given out.", "pool"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.build, c.ready, c.problems,
		c.up, c.state, c.since, c.uptime, c.received, c.accepted, c.advertised, c.flaps, c.restarting, c.warning, c.refused,
		c.desired, c.installed, c.failed, c.pending, c.nextHops,
		c.blocks, c.allocated, c.capacity,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := c.measure(context.Background())
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(c.build, 1, m.version, runtime.Version())
	gauge(c.ready, number(m.ready))
	gauge(c.problems, float64(m.problems))
	if m.sessionsErr != nil {
		ch <- prometheus.NewInvalidMetric(c.up, m.sessionsErr)
	}
	for i := range m.sessions {
		c.session(ch, &m.sessions[i])
	}
	for _, class := range routes.Classes() {
		gauge(c.desired, float64(m.routes.Desired[class]), class.String())
		gauge(c.installed, float64(m.routes.Installed[class]), class.String())
	}
	gauge(c.failed, float64(len(m.routes.Failed)))
	gauge(c.pending, float64(m.routes.Pending))
	gauge(c.nextHops, float64(m.routes.NextHops))

	pools := make(map[string]ipam.BlockUsage)
	blocks := make(map[string]int)
	for _, b := range m.blocks {
		sum := pools[b.Pool]
		sum.Allocated += b.Allocated
		sum.Capacity += b.Capacity
		pools[b.Pool] = sum
		blocks[b.Pool]++
	}
	for pool, sum := range pools {
		gauge(c.blocks, float64(blocks[pool]), pool)
		gauge(c.allocated, float64(sum.Allocated), pool)
		gauge(c.capacity, float64(sum.Capacity), pool)
	}
}

func (c *collector) session(ch chan<- prometheus.Metric, s *bgp.Session) {
	kind := "node"
	if s.Kind == bgp.PeerExternal {
		kind = "external"
	}
	send := func(d *prometheus.Desc, t prometheus.ValueType, value float64) {
		ch <- prometheus.MustNewConstMetric(d, t, value, s.Name, kind, peerWords(peerKey(s.Address)))
	}
	up := s.State == bgp.StateEstablished
	since, uptime := 0.0, 0.0
	if !s.Since.IsZero() {
		since = float64(s.Since.UnixMilli()) / 1000
		if up {
			uptime = max(0, c.now().Sub(s.Since).Seconds())
		}
	}
	for _, one := range []struct {
		desc  *prometheus.Desc
		value float64
	}{
		{c.up, number(up)},
		{c.state, stateNumber(s.State)},
		{c.since, since},
		{c.uptime, uptime},
		{c.received, float64(s.Received)},
		{c.accepted, float64(s.Accepted)},
		{c.advertised, float64(s.Advertised)},
		{c.restarting, number(s.PeerRestarting)},
		{c.warning, number(s.Warning != "")},
		{c.refused, float64(s.RefusedCount)},
	} {
		send(one.desc, prometheus.GaugeValue, one.value)
	}
	send(c.flaps, prometheus.CounterValue, float64(s.Flaps))
}

// stateNumber is a state as bgpPeerState has it (RFC 4273).
func stateNumber(s bgp.State) float64 {
	return cmp.Or(map[bgp.State]float64{
		bgp.StateConnect: 2, bgp.StateActive: 3, bgp.StateOpenSent: 4, bgp.StateOpenConfirm: 5, bgp.StateEstablished: 6,
	}[s], 1)
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// newRegistry returns the metrics of an agent and of its process.
func newRegistry(c *collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
