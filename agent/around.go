package agent

import (
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/godwit-net/godwit/agent/others"
)

// How often the node is looked at for what other networks have on it: seldom, as
// little of it comes by itself, and sooner while a person may be taking it away.
const (
	aroundInterval = 5 * time.Minute
	aroundSoon     = 5 * time.Second
)

// around is what other pod networks have on the node, as last seen. It is for one
// goroutine.
type around struct {
	look  func() ([]others.Find, error) // nil: nobody looks
	finds []others.Find
	next  time.Time
	told  string
}

// see looks if it is time to, and logs what is new.
func (r *around) see(now time.Time, log *slog.Logger) []others.Find {
	if r.look == nil || now.Before(r.next) {
		return r.finds
	}
	finds, err := r.look()
	if err != nil {
		log.Warn("can't see all that other networks may have left on the node", "error", err)
	}
	r.finds, r.next = finds, now.Add(aroundInterval)
	if len(finds) > 0 {
		r.next = now.Add(aroundSoon)
	}
	said := messages(finds)
	if said != r.told {
		for _, f := range finds {
			if !strings.Contains(r.told, f.Message) {
				log.Warn("something on the node may keep Godwit from working", "reason", f.Reason, "message", f.Message)
			}
		}
		if said == "" {
			log.Info("nothing of other networks is on the node any more")
		}
		r.told = said
	}
	return finds
}

// messages are the words of finds.
func messages(finds []others.Find) string {
	var all []string
	for _, f := range finds {
		all = append(all, f.Message)
	}
	return strings.Join(all, "; ")
}

// severalReason is the reason of a condition that has more than one.
const severalReason = "Several"

// foundReason is the reason of the condition about finds, of which there are some.
func foundReason(finds []others.Find) string {
	if slices.ContainsFunc(finds, func(f others.Find) bool { return f.Reason != finds[0].Reason }) {
		return severalReason
	}
	return finds[0].Reason
}
