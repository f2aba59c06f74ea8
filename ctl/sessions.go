package ctl

import (
	"fmt"
	"strings"
)

func (s *screen) sessions(sessions []Session) {
	t := table{columns: []column{
		{title: "NODE"},
		{title: "PEER"},
		{title: "KIND"},
		{title: "ADDRESS"},
		{title: "ASN", number: true},
		{title: "STATE"},
		{title: "SINCE", number: true},
		{title: "RECEIVED", number: true},
		{title: "ACCEPTED", number: true},
		{title: "ADVERTISED", number: true},
		{title: "FLAPS", number: true, optional: true},
		{title: "MESSAGE", optional: true},
		{title: "LAST ERROR", optional: true},
		{title: "CAPABILITIES", optional: true},
	}}
	established, wanted, hidden := 0, len(sessions), 0
	for _, n := range sessions {
		up := n.State == stateEstablished
		if n.State == stateListening {
			wanted--
		}
		if up {
			established++
			if !s.all && len(sessions) > maxRows {
				hidden++
				continue
			}
		}
		lastError, can := "", ""
		if s.wide {
			lastError, can = n.LastError, strings.Join(n.Capabilities, ", ")
		}
		since := "never"
		if n.Since != nil {
			since = s.age(*n.Since)
		}
		t.add(
			text(n.Node), text(n.Peer), text(n.Kind), text(n.Address), text(n.ASN), state(up || n.State == stateListening, n.State), text(since),
			text(n.Received), text(n.Accepted), text(n.Advertised), text(number(int64(n.Flaps))), text(remarks(n)),
			text(lastError), text(can),
		)
	}
	s.section("BGP sessions", fmt.Sprintf("%d of %d established%s", established, wanted, hint(hidden, "those are")),
		established == wanted, t)
}

// remarks are what a person should know of a session.
func remarks(n Session) string {
	said := make([]string, 0, 3)
	for _, one := range []string{n.Message, n.Warning} {
		if one != "" {
			said = append(said, one)
		}
	}
	if n.RefusedCount > 0 {
		refused := "refused: " + strings.Join(n.Refused, ", ")
		if more := int(n.RefusedCount) - len(n.Refused); more > 0 {
			refused += fmt.Sprintf(" and %d more", more)
		}
		said = append(said, refused)
	}
	return strings.Join(said, "; ")
}
