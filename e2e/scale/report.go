package scale

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/godwit-net/godwit/e2e/scale/table"
	"github.com/godwit-net/godwit/e2e/scale/usage"
)

// Report is what was measured.
type Report struct {
	Nodes      int    `json:"nodes"`
	Agents     int    `json:"agents"`
	Reflectors int    `json:"reflectors"`
	Topology   string `json:"topology"`
	Pools      int    `json:"pools"`

	// The largest NodeNetworks, in bytes of JSON.
	ClientObject    int `json:"clientObjectBytes"`
	ReflectorObject int `json:"reflectorObjectBytes"`
	Unmanaged       int `json:"unmanagedBytes"` // without managedFields

	Join    JoinReport     `json:"join"`
	Rest    RestReport     `json:"rest"`
	Events  []Event        `json:"events"`
	Restart RestartReport  `json:"restart"`
	Tables  []table.Report `json:"tables,omitempty"`
}

// Spread says of times how long they are.
type Spread struct {
	Median time.Duration `json:"medianNanoseconds"`
	P99    time.Duration `json:"p99Nanoseconds"`
	Max    time.Duration `json:"maxNanoseconds"`
}

// JoinReport is about all nodes joining.
type JoinReport struct {
	Over    time.Duration `json:"overNanoseconds"`
	Settled time.Duration `json:"settledNanoseconds"` // from the first join until all is in place
	Quiet   time.Duration `json:"quietNanoseconds"`   // likewise, until nothing more comes of it
	Planned Spread        `json:"planned"`            // from a node's registration to its plan
	Placed  Spread        `json:"placed"`             // until its agent reports that it is carried out
	Traffic Traffic       `json:"traffic"`            // of all agents
	Writes  int64         `json:"planWrites"`

	EventsPerAgentPerJoin float64 `json:"eventsPerAgentPerJoin"`

	Controller usage.Usage `json:"controller"`
}

// RestReport is about a cluster in which nothing happens.
type RestReport struct {
	Duration   time.Duration `json:"durationNanoseconds"`
	Agents     int           `json:"agents"`
	Traffic    Traffic       `json:"traffic"` // of all agents
	Controller usage.Usage   `json:"controller"`
}

// PerAgent returns something of all agents for one and a minute.
func (r *RestReport) PerAgent(all int64) float64 {
	return float64(all) / float64(r.Agents) / r.Duration.Minutes()
}

// RestartReport is about all agents starting at once.
type RestartReport struct {
	Settled    time.Duration `json:"settledNanoseconds"`
	Traffic    Traffic       `json:"traffic"`
	Controller usage.Usage   `json:"controller"`
}

// Event is what one change of the cluster led to.
type Event struct {
	Name    string        `json:"name"`
	Writes  int64         `json:"planWrites"`
	Deletes int64         `json:"planDeletes"`
	Written time.Duration `json:"writtenNanoseconds"` // until the last of them
	Placed  time.Duration `json:"placedNanoseconds"`  // of a node that joins: until its plan is carried out
	// Clients and Reflectors are the agents that were there before.
	Clients    Share       `json:"clients"`
	Reflectors Share       `json:"reflectors"`
	Controller usage.Usage `json:"controller"`
}

// Share is the traffic of some agents.
type Share struct {
	Agents      int     `json:"agents"`
	Traffic     Traffic `json:"traffic"`
	MostEvents  int64   `json:"mostEvents"` // of one of them
	MostRequest int64   `json:"mostRequests"`
}

func (s *Share) add(t Traffic) {
	s.Agents++
	s.Traffic = s.Traffic.plus(t)
	s.MostEvents, s.MostRequest = max(s.MostEvents, t.Events), max(s.MostRequest, t.Requests)
}

func (s *Share) mean(n int64) float64 { return float64(n) / float64(max(s.Agents, 1)) }

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p := func(format string, a ...any) { _, _ = fmt.Fprintf(t, format+"\n", a...) }
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	mb := func(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }

	if r.Nodes > 0 {
		r.cluster(p, ms, mb)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Events) > 0 {
		r.rows(p, ms)
	}
	for _, b := range r.Tables {
		p("")
		p("%s with %d sessions and %d routes: sessions up after\t%s", b.Part, b.Sessions, b.Routes, ms(b.Up))
		p("  full table after, CPU\t%s, %s", ms(b.Full), ms(b.Loaded.CPU))
		p("  memory without and with it, most\t%s, %s, %s", mb(b.Empty.RSS), mb(b.Loaded.RSS), mb(b.Loaded.PeakRSS))
	}
	return t.Flush()
}

// cluster prints what is of the cluster as a whole.
func (r *Report) cluster(p func(string, ...any), ms func(time.Duration) string, mb func(int64) string) {
	p("%d nodes, %d of them with an agent, topology %s, %d reflectors, %d blocks a node", r.Nodes, r.Agents, r.Topology, r.Reflectors, r.Pools)
	p("largest NodeNetwork: of a client %d bytes, of a reflector %d (without managedFields %d)", r.ClientObject, r.ReflectorObject, r.Unmanaged)
	p("")
	j := &r.Join
	p("All join over %v\t", j.Over)
	p("  all plans in place after\t%s", ms(j.Settled))
	p("  all reported, reflectors as many as are wanted\t%s", ms(j.Quiet))
	p("  node to plan: median, 99 %%, most\t%s, %s, %s", ms(j.Planned.Median), ms(j.Planned.P99), ms(j.Planned.Max))
	p("  node to plan carried out\t%s, %s, %s", ms(j.Placed.Median), ms(j.Placed.P99), ms(j.Placed.Max))
	p("  writes of plans for each node\t%.1f", float64(j.Writes)/float64(r.Nodes))
	p("  requests of an agent\t%.1f", float64(j.Traffic.Requests)/float64(r.Agents))
	p("  watch events of an agent, for each join\t%.4f", j.EventsPerAgentPerJoin)
	p("  kB sent and received by an agent\t%.0f, %.0f", float64(j.Traffic.Sent)/1e3/float64(r.Agents), float64(j.Traffic.Received)/1e3/float64(r.Agents))
	p("  controller: CPU, memory, most\t%s, %s, %s", ms(j.Controller.CPU), mb(j.Controller.RSS), mb(j.Controller.PeakRSS))
	if s := &r.Rest; s.Agents > 0 {
		p("At rest, an agent and minute\t")
		p("  requests, watches, watch events, bookmarks\t%.3f, %.3f, %.3f, %.3f", s.PerAgent(s.Traffic.Requests), s.PerAgent(s.Traffic.Watches), s.PerAgent(s.Traffic.Events), s.PerAgent(s.Traffic.Marks))
		p("  bytes sent, received\t%.0f, %.0f", s.PerAgent(s.Traffic.Sent), s.PerAgent(s.Traffic.Received))
		p("  controller: CPU a minute, memory\t%s, %s", ms(time.Duration(float64(s.Controller.CPU)/s.Duration.Minutes())), mb(s.Controller.RSS))
	}
	if s := &r.Restart; s.Settled > 0 {
		p("Full start of agents and controller\t")
		p("  all plans carried out, sessions up\t%s", ms(s.Settled))
		p("  requests, watch events of an agent\t%.1f, %.1f", float64(s.Traffic.Requests)/float64(r.Agents), float64(s.Traffic.Events)/float64(r.Agents))
		p("  controller: CPU, memory, most\t%s, %s, %s", ms(s.Controller.CPU), mb(s.Controller.RSS), mb(s.Controller.PeakRSS))
	}
}

// rows prints the events.
func (r *Report) rows(p func(string, ...any), ms func(time.Duration) string) {
	p("")
	p("\tplans\tuntil\t  client: events\trequests\tkB\t  reflector: events\trequests\tkB\t  controller")
	p("\twritten\twritten\t  mean, most\tmean, most\tmean\t  mean, most\tmean, most\tmean\t  CPU")
	for i := range r.Events {
		e := &r.Events[i]
		p("%s\t%d\t%s\t  %s\t  %s\t  %s", e.Name, e.Writes, ms(e.Written), e.Clients.row(), e.Reflectors.row(), ms(e.Controller.CPU))
	}
}

func (s *Share) row() string {
	return fmt.Sprintf("%.2f, %d\t%.2f, %d\t%.1f", s.mean(s.Traffic.Events), s.MostEvents,
		s.mean(s.Traffic.Requests), s.MostRequest, s.mean(s.Traffic.Sent+s.Traffic.Received)/1e3)
}
