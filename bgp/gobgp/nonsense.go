package gobgp

import "time"

// nonsense is what was wrong with UPDATEs of an established session that did not
// end it (RFC 7606).
type nonsense struct {
	what   string    // was wrong with the last one
	at     time.Time // when it came
	logged time.Time // when the log last said so
}

const (
	// nonsenseFor is for how long an UPDATE that made no sense is told of.
	nonsenseFor = 15 * time.Minute
	// nonsenseRest is how long the log says nothing of others.
	nonsenseRest = time.Minute
)

func (n nonsense) String() string {
	if n.what == "" || time.Since(n.at) > nonsenseFor {
		return ""
	}
	return "it sends UPDATEs that make no sense, whose routes are not taken or lack an attribute; what is wrong: " + n.what
}

// note notes what was wrong with an UPDATE, and whether the log has said the like
// of this peer a moment ago.
func (p *page) note(what string, at time.Time) (repeats bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nonsense.what, p.nonsense.at = what, at
	if at.Sub(p.nonsense.logged) < nonsenseRest {
		return true
	}
	p.nonsense.logged = at
	return false
}
