package ctl

import (
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// sessions joins the sessions of a node's plan with what the node reports of them:
// one for each, and for a range that routers call from one for each that did.
func sessions(nn *v1alpha1.NodeNetwork) []Session {
	type key struct {
		kind v1alpha1.SessionKind
		name string
	}
	reported := make(map[key][]v1alpha1.SessionStatus, len(nn.Status.Sessions))
	for _, st := range nn.Status.Sessions {
		// Names of objects have no slash.
		name, _, _ := strings.Cut(st.Name, "/")
		reported[key{st.Kind, name}] = append(reported[key{st.Kind, name}], st)
	}
	var out []Session
	for i := range nn.Spec.Sessions {
		p := &nn.Spec.Sessions[i]
		found := reported[key{p.Kind, p.Name}]
		for _, st := range found {
			out = append(out, reportedSession(nn.Name, p, st))
		}
		if len(found) == 0 {
			out = append(out, silentSession(nn.Name, p))
		}
	}
	return out
}

func reportedSession(node string, p *v1alpha1.PlannedSession, st v1alpha1.SessionStatus) Session {
	return Session{
		Node: node, Peer: p.Name, Kind: string(p.Kind), Address: st.PeerAddress, ASN: p.PeerASN,
		State: st.State, Since: st.Since, Message: st.Message,
		Received: st.Received, Accepted: st.Accepted, Advertised: st.Advertised,
		Warning: st.Warning, Flaps: st.Flaps, LastError: st.LastError, PeerRestarting: st.PeerRestarting,
		Capabilities: append([]string{}, st.Capabilities...), // never null
		Refused:      append([]string{}, st.Refused...), RefusedCount: st.RefusedCount,
	}
}

// silentSession is one that the node does not report.
func silentSession(node string, p *v1alpha1.PlannedSession) Session {
	s := Session{
		Node: node, Peer: p.Name, Kind: string(p.Kind), Address: p.PeerAddress, ASN: p.PeerASN,
		State: stateUnknown, Message: "the node's agent does not report this session",
		Capabilities: []string{}, Refused: []string{},
	}
	if p.PeerPrefix != "" {
		s.Address, s.State, s.Message = p.PeerPrefix, stateListening, "no router of this range has called"
	}
	return s
}
