package gobgp

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// journal gathers what is logged.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *journal) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *journal) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// An UPDATE that makes no sense, though the session goes on, is told of in the
// status and in the log, there once a minute.
func TestNonsenseIsToldOf(t *testing.T) {
	log := &journal{}
	c := arenaConfig(t, 1)
	sp := start(t, Options{Sink: newSink(), Log: slog.New(slog.NewTextHandler(log, nil))})
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), external(rogueAddress(0).String(), rogueASN))
	r.connect()
	if w := sessionOf(t, sp, "rogue0").Warning; w != "" {
		t.Errorf("without a reason it is warned: %s", w)
	}
	says := func(what string) {
		t.Helper()
		eventually(t, func() string {
			s := sessionOf(t, sp, "rogue0")
			if s.State != bgp.StateEstablished || !strings.Contains(s.Warning, what) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
	}
	r.send(updateWith(attribute(wellKnown, attrOrigin, 9)))
	says("invalid origin")
	r.send(updateWith(attribute(wellKnown, attrAtomic, 1)))
	says("atomic aggregate")
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("the log has %d warnings:\n%q", n, log.String())
	}
}
