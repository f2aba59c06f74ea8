package gobgp

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
)

// logHandler takes GoBGP's log. Warnings and errors go to our own log, the
// rest goes there for debugging only; and what a peer's state machine says is
// heard for the session's status, since GoBGP tells nowhere else why a
// connection fails; nor does it tell elsewhere, before it has worked on each
// route, that a session was lost.
//
// Debug messages are heard only of sessions that are not established: an
// established one makes several for each UPDATE, which would cost more than
// the UPDATE.
type logHandler struct {
	next  slog.Handler
	book  *book
	lost  func(netip.Addr) // hears of peers whose routes go
	page  *page            // of the peer whose state machine logs, or nil
	peer  netip.Addr       // that peer
	muted *atomic.Bool
	// stranger is told of who calls and is no peer; it must not block.
	stranger func(netip.Addr)
}

func newLogHandler(next slog.Handler, b *book, lost func(netip.Addr)) *logHandler {
	return &logHandler{next: next, book: b, lost: lost, muted: new(atomic.Bool)}
}

// mute ends logging: a server that is being stopped has nothing to say.
func (h *logHandler) mute() { h.muted.Store(true) }

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	switch {
	case h.muted.Load():
		return false
	case h.page != nil && !h.page.established.Load():
		return true
	case level < slog.LevelInfo:
		return false
	case level < slog.LevelWarn:
		return h.page != nil || h.stranger != nil || h.next.Enabled(ctx, slog.LevelDebug)
	}
	return true
}

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	repeats := false
	if h.page != nil {
		repeats = h.page.hear(r)
		if r.Message == hungUp {
			h.book.calls(h.page)
		}
		if r.Message == "Peer Down" && attr(r, "Reason").String() != "graceful-restart" {
			h.lost(h.peer)
		}
	}
	if h.stranger != nil && r.Message == strangerCalls {
		if addr, err := netip.ParseAddr(attr(r, "Key").String()); err == nil {
			h.stranger(addr.Unmap())
		}
	}
	level := r.Level
	switch {
	case level < slog.LevelInfo:
		return nil
	case level < slog.LevelWarn, isRoutine(r.Message), repeats:
		level = slog.LevelDebug
	}
	if !h.next.Enabled(ctx, level) {
		return nil
	}
	out := slog.NewRecord(r.Time, level, "gobgp: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(a)
		return true
	})
	return h.next.Handle(ctx, out)
}

// strangerCalls is what GoBGP says, with the caller's address, of a call from
// nobody that it knows.
const strangerCalls = "Can't find configuration for a new passive connection"

// hungUp is what GoBGP says of a call that it does not take.
const hungUp = "Closed an accepted connection"

// isRoutine tells the warnings that every pair of speakers causes when both
// dial at once.
func isRoutine(message string) bool {
	return message == hungUp || message == "accepted conn is closed to avoid be blocked"
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key != "Key" {
			continue
		}
		if addr, err := netip.ParseAddr(a.Value.String()); err == nil {
			c.page, c.peer = h.book.page(addr), addr.Unmap()
		}
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	return &c
}

// hear gathers from a message of GoBGP why the session is not established, or
// what of an UPDATE made no sense. What is not understood is left alone. It tells
// whether the peer did the like a moment ago: it could fill the log.
func (p *page) hear(r slog.Record) (repeats bool) {
	switch r.Message {
	case "the received Update message was treated as withdraw", "Some attributes were discarded":
		return p.note(attr(r, "Error").String(), r.Time)
	case "failed to connect":
		cause := afterLastColon(attr(r, "Error").String())
		if cause == "i/o timeout" && p.hasPassword() {
			cause += " (a password that differs looks like this too)"
		}
		p.say("can't connect: %s", cause)
	case "outgoing connection IO error":
		p.say("it closed the connection without a word (does it know this node as a peer?)")
	case "hold timer expired":
		p.mu.Lock()
		p.silent = p.established.Load()
		p.mu.Unlock()
	case "sent notification":
		code, sub := number(r, "Code"), number(r, "Subcode")
		if code == codeFSM {
			p.say("it refused our OPEN; its own log says why (often the AS number or the address it expects)")
			return false
		}
		text := "we closed the session: " + notification(code, sub) + p.hint(code, sub)
		if code == codeCease {
			p.ceased(text)
			return
		}
		p.refuse(text)
	case "received notification":
		code, sub := number(r, "Code"), number(r, "Subcode")
		text := notification(code, sub)
		if why := attr(r, "Communicated-Reason").String(); why != "" {
			text += ": " + why
		}
		text = "it closed the session: " + text
		if code == codeCease && sub == subcodeCollision {
			p.say("%s", text) // two that call each other at once do so: nothing is wrong
			return false
		}
		p.refuse(text)
	}
	return false
}

func (p *page) hasPassword() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peer.Password != ""
}

func attr(r slog.Record, key string) slog.Value {
	v := slog.StringValue("")
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value
		}
		return a.Key != key
	})
	return v
}

func number(r slog.Record, key string) int {
	if v := attr(r, key); v.Kind() == slog.KindInt64 {
		return int(v.Int64())
	}
	return -1
}

// afterLastColon cuts "dial tcp 10.0.0.1:179: connect: connection refused" down
// to what a person wants to know.
func afterLastColon(s string) string {
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[i+2:]
	}
	return s
}
