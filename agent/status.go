package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/agent/others"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

const (
	statusInterval = time.Second // how often the node is looked at
	maxFailed      = 16          // failed routes in a status
	maxDifferences = 16          // differences in a status
	maxMessage     = 4096        // bytes of a condition's message; the API takes 32768
)

// observation is what an agent sees of its node at one moment.
type observation struct {
	generation int64
	version    string
	addresses  []v1alpha1.NodeAddress
	blocks     []ipam.BlockUsage
	sessions   []bgp.Session
	routes     routes.Status
	notReady   error   // why no pod can be attached
	problems   []error // of the plan and of carrying it out
	desired    desired
	tunnels    []tunnel.Status
	tunnelErr  error // of the tunnels as a whole
	remote     bool  // the routes of other nodes' blocks come from the API
	mtu        int
	departed   []v1alpha1.DepartedBlock
	held       []netip.Addr // addresses that pods have
	learned    v1alpha1.LearnedBlocks
	differ     []v1alpha1.Difference // what does not agree on the node
	finds      []others.Find         // what other networks have on the node
	unfit      error                 // why nothing was begun on the node: of the rest there is nothing then
}

// status puts an observation into the API's words. old is the status before,
// which conditions that did not change keep their time of.
func status(o *observation, old *v1alpha1.NodeNetworkStatus, now metav1.Time) v1alpha1.NodeNetworkStatus {
	if o.unfit != nil {
		return unfitStatus(o, old, now)
	}
	s := v1alpha1.NodeNetworkStatus{
		ObservedGeneration: o.generation,
		AgentVersion:       o.version,
		Addresses:          o.addresses,
		MTU:                int32(o.mtu),
		BlocksFromAPI: o.remote && o.routes.Pending == 0 &&
			o.routes.Installed[routes.ClassRemote] == o.routes.Desired[routes.ClassRemote],
		Conditions: slices.Clone(old.Conditions),
	}
	s.Tunnels = tunnelStatus(o)
	pods := 0
	for _, b := range o.blocks {
		pods += b.Allocated
		s.Blocks = append(s.Blocks, v1alpha1.BlockStatus{
			CIDR: b.CIDR.String(), Pool: b.Pool, Allocated: int32(b.Allocated), InUse: v1alpha1.OffsetsOf(b.CIDR, o.held).String(),
		})
	}
	s.DepartedBlocks = o.departed
	s.Learned = &o.learned
	s.Differences = o.differ[:min(len(o.differ), maxDifferences)]
	var down []string
	expected := o.desired.expected(o.sessions)
	for i := range expected {
		if expected[i].State != bgp.StateEstablished {
			down = append(down, downWords(&expected[i]))
		}
	}
	restarts := o.desired.restarts(o.sessions)
	for i := range o.sessions {
		s.Sessions = append(s.Sessions, sessionStatus(&o.sessions[i], restarts[peerKey(o.sessions[i].Address)]))
	}
	for _, f := range o.routes.Failed[:min(len(o.routes.Failed), maxFailed)] {
		s.FailedRoutes = append(s.FailedRoutes, v1alpha1.FailedRoute{Destination: f.Dst.String(), Message: f.Err.Error()})
	}
	s.Summary = v1alpha1.NodeSummary{
		Sessions: fmt.Sprintf("%d/%d", len(expected)-len(down), len(expected)),
		Blocks:   int32(len(o.blocks)),
		Pods:     int32(pods),
		Routes:   int32(o.routes.Installed[routes.ClassLearned] + o.routes.Installed[routes.ClassRemote]),
	}
	set := func(kind string, bad bool, goodReason, badReason, message string) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: goodReason, ObservedGeneration: o.generation, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, badReason, clip(message, maxMessage)
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	set(v1alpha1.ConditionReady, o.notReady != nil, "Serving", "NotServing", text(o.notReady))
	set(v1alpha1.ConditionPlanApplied, len(o.problems) > 0, "Applied", "Problems", joined(o.problems))
	set(v1alpha1.ConditionSessionsEstablished, len(down) > 0, "Established", "Down", "not established: "+strings.Join(down, ", "))
	set(v1alpha1.ConditionSessionsSound, warnings(o.sessions) != "", "Sound", "Warning", warnings(o.sessions))
	set(v1alpha1.ConditionOriginsValid, refusals(o.sessions) != "", "Valid", "OriginRefused", refusals(o.sessions))
	set(v1alpha1.ConditionRoutesInstalled, len(o.routes.Failed) > 0, "Installed", "Failed",
		fmt.Sprintf("%d routes could not be installed; see status.failedRoutes", len(o.routes.Failed)))
	meta.SetStatusCondition(&s.Conditions, hostSound(o, now))
	if len(o.desired.tunnels) == 0 {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionTunnelsReady)
		return s
	}
	reason, problem := tunnelTrouble(o)
	set(v1alpha1.ConditionTunnelsReady, problem != nil, "Up", reason, text(problem))
	return s
}

// downWords names a session that is not established; of one with a router also why it
// last ended, as for an AS number that is not the configured one.
func downWords(s *bgp.Session) string {
	if s.Kind == bgp.PeerExternal && s.LastError != "" {
		return s.Name + " (" + s.LastError + ")"
	}
	return s.Name
}

// unfitStatus is the status of a node on which nothing could be begun.
func unfitStatus(o *observation, old *v1alpha1.NodeNetworkStatus, now metav1.Time) v1alpha1.NodeNetworkStatus {
	s := v1alpha1.NodeNetworkStatus{AgentVersion: o.version, Conditions: slices.Clone(old.Conditions)}
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPlanApplied} {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionFalse, Reason: "NodeUnfit", Message: clip(o.unfit.Error(), maxMessage), LastTransitionTime: now,
		})
	}
	meta.SetStatusCondition(&s.Conditions, hostSound(o, now))
	return s
}

// hostSound tells what was found on the node that may keep Godwit from working.
func hostSound(o *observation, now metav1.Time) metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionHostSound, Status: metav1.ConditionTrue, Reason: "Sound", ObservedGeneration: o.generation, LastTransitionTime: now,
	}
	if len(o.finds) > 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, foundReason(o.finds), clip(messages(o.finds), maxMessage)
	}
	return c
}

// tunnelStatus returns the tunnels that carry packets.
func tunnelStatus(o *observation) []v1alpha1.TunnelStatus {
	var out []v1alpha1.TunnelStatus
	for _, t := range o.tunnels {
		if !t.Up {
			continue
		}
		s := v1alpha1.TunnelStatus{Interface: t.Name(), Kind: v1alpha1.TunnelIPIP, MTU: int32(t.MTU)}
		if t.Kind == tunnel.VXLAN {
			s.Kind = v1alpha1.TunnelVXLAN
		}
		if len(t.Addresses) > 0 {
			s.Address = t.Addresses[0].String()
		}
		out = append(out, s)
	}
	return out
}

// tunnelTrouble says what keeps a planned tunnel from carrying packets, if
// anything does.
func tunnelTrouble(o *observation) (reason string, err error) {
	for _, kind := range o.desired.tunnels {
		if !slices.ContainsFunc(o.desired.addresses, func(a netip.Addr) bool { return kind.Interface(a.Is6()) != "" }) {
			return "NoAddress", fmt.Errorf("the node has no address that %s can go over", kind)
		}
	}
	for _, t := range o.tunnels {
		if t.Err != nil {
			return tunnelReason(t.Err), fmt.Errorf("%s: %w", t.Name(), t.Err)
		}
	}
	if o.tunnelErr != nil {
		return tunnelReason(o.tunnelErr), o.tunnelErr
	}
	return "", nil
}

// clip cuts a message that is longer than so many bytes, as one that names each of
// thousands of nodes.
func clip(message string, most int) string {
	if len(message) <= most {
		return message
	}
	const more = " ..."
	return strings.ToValidUTF8(message[:most-len(more)], "") + more
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func joined(errs []error) string {
	words := make([]string, len(errs))
	for i, err := range errs {
		words[i] = err.Error()
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), "; ")
}

// withoutCounts returns s less the figures that change all the time.
func withoutCounts(s *v1alpha1.NodeNetworkStatus) v1alpha1.NodeNetworkStatus {
	out := *s.DeepCopy()
	out.Summary.Pods, out.Summary.Routes = 0, 0
	for i := range out.Blocks {
		out.Blocks[i].Allocated, out.Blocks[i].InUse = 0, ""
	}
	out.Learned = nil
	for i := range out.Sessions {
		withoutSessionCounts(&out.Sessions[i])
	}
	for i := range out.Conditions {
		// Their messages name figures; what else they say is in the sessions.
		if c := &out.Conditions[i]; c.Type == v1alpha1.ConditionSessionsSound || c.Type == v1alpha1.ConditionOriginsValid {
			c.Message = ""
		}
	}
	return out
}

// statusWriter writes a node's status when it differs: at once where it says
// something new, and seldom where only figures moved (see figures).
type statusWriter struct {
	client  client.Client
	node    string
	written v1alpha1.NodeNetworkStatus
	figures *figures
	plan    int64              // generation of the node's plan
	planned time.Time          // when that was first carried out
	next    time.Time          // no write before
	backoff time.Duration      // since writes fail; 0: they don't
	failed  error              // of the last write
	stale   bool               // the API may not have what was written
	seen    []metav1.Condition // as last observed
}

const (
	// sessionSpacing is the least time between two writes of a status for each session
	// in it: what a write costs the API server grows with them, and on a reflector
	// something is new of one of them with every node that joins.
	sessionSpacing = 10 * time.Millisecond
	// settleStatus is for how long a new plan may settle before it is reported.
	settleStatus = 3 * time.Second
	// writeTimeout bounds a write, with writeSessionTimeout more for each session, up to
	// writeLimit. Where the API server has a queue, to give up and come back would only
	// make it longer.
	writeTimeout        = 15 * time.Second
	writeSessionTimeout = 100 * time.Millisecond
	writeLimit          = 60 * time.Second // the API server's own
	// maxBackoff bounds the time between tries when writes fail: an API server that has
	// too much to do gets less, not more, but one that is back is to know soon what
	// is so.
	maxBackoff = 4 * time.Second
)

// writeTime is how long the write of a status with so many sessions may take.
func writeTime(sessions int) time.Duration {
	return min(writeTimeout+time.Duration(sessions)*writeSessionTimeout, writeLimit)
}

func newStatusWriter(c client.Client, node string) *statusWriter {
	return &statusWriter{client: c, node: node, figures: newFigures()}
}

func (w *statusWriter) write(ctx context.Context, o *observation, now time.Time) error {
	s := status(o, &w.written, metav1.NewTime(now.Truncate(time.Second)))
	w.seen = s.Conditions
	if !w.stale && reflect.DeepEqual(s, w.written) {
		w.figures.settled()
		return nil
	}
	if now.Before(w.next) || w.unsettled(o, now) {
		return w.failed
	}
	if !w.stale && w.failed == nil && reflect.DeepEqual(withoutCounts(&s), withoutCounts(&w.written)) && !w.figures.ripe(o, now) {
		return nil
	}
	// "add" replaces what is there: the status is the agent's as a whole.
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": s}})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	obj := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: w.node}}
	if err := w.client.Status().Patch(ctx, obj, client.RawPatch(types.JSONPatchType, patch)); err != nil {
		w.backoff = min(max(2*w.backoff, statusInterval), maxBackoff)
		w.next = now.Add(w.backoff/2 + rand.N(w.backoff)) // #nosec G404 -- a spread
		w.failed = fmt.Errorf("write status: %w", err)
		return w.failed
	}
	w.written, w.stale, w.failed, w.backoff = s, false, nil, 0
	w.next = now.Add(time.Duration(len(s.Sessions)) * sessionSpacing)
	w.figures.settled()
	return nil
}

// unsettled tells whether a plan was carried out just now and what follows from it
// has yet to come: blocks, and sessions with nodes whose own plan came at the same
// time. It is reported in one with them.
func (w *statusWriter) unsettled(o *observation, now time.Time) bool {
	if o.generation != w.plan {
		w.plan, w.planned = o.generation, now
	}
	if now.Sub(w.planned) >= settleStatus {
		return false
	}
	return len(o.blocks) == 0 && len(o.desired.choices) > 0 ||
		slices.ContainsFunc(o.sessions, func(s bgp.Session) bool { return s.Kind == bgp.PeerNode && s.State != bgp.StateEstablished })
}

// sortedUnique is for the few addresses that a node exempts or reports.
func sortedUnique(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
