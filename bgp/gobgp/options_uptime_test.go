package gobgp

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// uptimes is since when sessions are up, in the routers' words.
func (b *rack) uptimes(t *testing.T, which func(*seat) bool) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, s := range b.seats {
		if which(s) {
			out[s.name()] = s.look(t).since
		}
	}
	return out
}

// mustHaveStayed compares since when sessions are up with how it was, in the
// routers' words and, of all sessions, in ours; those that were touched must have
// gone down.
func (b *rack) mustHaveStayed(t *testing.T, sp bgp.Speaker, before map[string]string, ours map[string]time.Time, touched func(*seat) bool) {
	t.Helper()
	now := b.upSince(t, sp)
	for _, s := range b.seats {
		reset := touched(s)
		if was, ok := ours[s.name()]; ok && now[s.name()].Equal(was) == reset {
			t.Errorf("the session %s is up since %v, and was since %v", s.name(), now[s.name()], was)
		}
		if was, ok := before[s.name()]; ok {
			if l := s.look(t); !l.established || l.isSince(was) == reset {
				t.Errorf("the session %s was up since %s: %s", s.name(), was, l.text)
			}
		}
	}
}

// sessions are what we report of the sessions.
func (b *rack) sessions(t *testing.T, sp bgp.Speaker) map[*seat]bgp.Session {
	t.Helper()
	all, err := sp.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[*seat]bgp.Session)
	for _, s := range b.seats {
		i := slices.IndexFunc(all, func(session bgp.Session) bool { return session.Address == s.peer.Address })
		if i < 0 {
			t.Fatalf("there is no session with %v", s.peer.Address)
		}
		out[s] = all[i]
	}
	return out
}

// upSince is since when the sessions are up that are.
func (b *rack) upSince(t *testing.T, sp bgp.Speaker) map[string]time.Time {
	t.Helper()
	out := make(map[string]time.Time)
	for s, session := range b.sessions(t, sp) {
		if session.State == bgp.StateEstablished {
			out[s.name()] = session.Since
		}
	}
	return out
}
