package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batchMessages and batchBytes bound what goes in one send, so that the answers
	// fit into the receive buffer even when every message fails (each failure takes
	// about a kilobyte of it), and that others get at the kernel's lock in between.
	batchMessages = 512
	batchBytes    = 64 << 10

	requestBuffer = 4 << 20
	monitorBuffer = 16 << 20
	answerTimeout = 30 * time.Second
)

// netlinkKernel is the real kernel, in the network namespace of the thread that
// opened it.
type netlinkKernel struct {
	table uint32
	req   *socket // requests and dumps
	mon   *socket // notifications, but those of req's own changes
	news  []event

	enc encoder

	mu     sync.Mutex // guards wakeFD against close
	wakeFD int
}

// openNetlink opens the sockets.
func openNetlink(table int) (_ *netlinkKernel, err error) {
	k := &netlinkKernel{table: uint32(table), wakeFD: -1}
	defer func() {
		if err != nil {
			_ = k.close()
		}
	}()
	if k.req, err = openSocket(requestBuffer); err != nil {
		return nil, err
	}
	if err := k.req.receiveTimeout(answerTimeout); err != nil {
		return nil, err
	}
	if k.mon, err = openSocket(monitorBuffer); err != nil {
		return nil, err
	}
	// Our own changes come back as notifications, too. The filter drops them in the
	// kernel, so that they cost next to nothing, and what arrives is news.
	if err := k.mon.ignoreSender(k.req.port); err != nil {
		return nil, err
	}
	for _, g := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP} {
		if err := k.mon.join(g); err != nil && g != unix.RTNLGRP_NEXTHOP {
			return nil, err
		}
	}
	if k.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return k, nil
}

func (k *netlinkKernel) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, s := range []*socket{k.req, k.mon} {
		if s != nil {
			errs = append(errs, unix.Close(s.fd))
		}
	}
	if k.wakeFD >= 0 {
		errs = append(errs, unix.Close(k.wakeFD))
	}
	k.req, k.mon, k.wakeFD = nil, nil, -1
	return errors.Join(errs...)
}

func (k *netlinkKernel) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wakeFD >= 0 {
		// The write fails only when the counter is full, and then wait ends as well.
		_, _ = unix.Write(k.wakeFD, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

func (k *netlinkKernel) wait(d time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(k.wakeFD), Events: unix.POLLIN}, {Fd: int32(k.mon.fd), Events: unix.POLLIN}}
	ms := int((d + time.Millisecond - 1) / time.Millisecond)
	if _, err := unix.Poll(fds, max(ms, 0)); err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	if fds[0].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(k.wakeFD, b[:])
	}
	return nil
}

func (k *netlinkKernel) events() ([]event, error) {
	k.news = k.news[:0]
	overflow := false
	for {
		b, err := k.mon.receive(unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if overflow {
				return k.news, errOverflow
			}
			return k.news, nil
		case errors.Is(err, unix.ENOBUFS):
			overflow = true
			continue
		case err != nil:
			return k.news, err
		}
		err = eachMessage(b, func(h header, payload []byte) error {
			ev, ok, err := decodeEvent(h, payload)
			if ok && k.concerns(ev) {
				k.news = append(k.news, ev)
			}
			return err
		})
		overflow = overflow || err != nil // what can't be read is lost
	}
}

// concerns leaves out the routes of other tables.
func (k *netlinkKernel) concerns(ev event) bool {
	return ev.route == nil || ev.route.table == k.table || ev.route.table == unix.RT_TABLE_MAIN
}

func (k *netlinkKernel) snapshot() (snapshot, error) {
	s := snapshot{objects: true}
	collect := func(h header, payload []byte) error {
		ev, ok, err := decodeEvent(h, payload)
		if ok {
			ev.replace = false
			s.events = append(s.events, ev)
		}
		return err
	}
	// Links first, then the objects over them, then the routes over those, so that
	// whoever takes the events in order knows what they refer to.
	if err := k.dump(unix.RTM_GETLINK, make([]byte, sizeofIfinfo), nil, collect); err != nil {
		return s, fmt.Errorf("list links: %w", err)
	}
	err := k.dump(unix.RTM_GETNEXTHOP, make([]byte, sizeofNhmsg), nil, collect)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		s.objects = false
	case err != nil:
		return s, fmt.Errorf("list nexthop objects: %w", err)
	}
	tables := []uint32{unix.RT_TABLE_MAIN}
	if k.table != unix.RT_TABLE_MAIN {
		tables = append(tables, k.table)
	}
	for _, table := range tables {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			m := make([]byte, sizeofRtmsg)
			m[0] = family
			var attrs encoder
			attrs.attr32(unix.RTA_TABLE, table)
			err := k.dump(unix.RTM_GETROUTE, m, attrs.b, collect)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
				continue // a table without routes, a kernel without IPv6
			}
			if err != nil {
				return s, fmt.Errorf("list routes: %w", err)
			}
		}
	}
	return s, nil
}

// dump asks for a list and hands every message to f; it asks again when the
// kernel says that the list changed while it was told.
func (k *netlinkKernel) dump(typ uint16, msg, attrs []byte, f func(header, []byte) error) error {
	var collected [][]byte
	for attempt := 0; ; attempt++ {
		collected = collected[:0]
		interrupted, err := k.dumpOnce(typ, msg, attrs, func(b []byte) {
			collected = append(collected, append([]byte(nil), b...))
		})
		if err != nil {
			return err
		}
		if !interrupted || attempt == 4 {
			// Changes during the last attempt come as events.
			break
		}
	}
	for _, b := range collected {
		err := eachMessage(b, func(h header, payload []byte) error {
			if h.typ == unix.NLMSG_DONE || h.typ == unix.NLMSG_ERROR {
				return nil
			}
			return f(h, payload)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *netlinkKernel) dumpOnce(typ uint16, msg, attrs []byte, f func([]byte)) (interrupted bool, err error) {
	k.enc.b = k.enc.b[:0]
	seq := k.req.nextSeq()
	k.enc.begin(typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq)
	k.enc.b = append(append(k.enc.b, msg...), attrs...)
	k.enc.end()
	if err := k.req.send(k.enc.b); err != nil {
		return false, err
	}
	for done := false; !done; {
		b, err := k.req.receive(0)
		if err != nil {
			return false, err
		}
		mine := false
		err = eachMessage(b, func(h header, payload []byte) error {
			if h.seq != seq {
				return nil
			}
			mine = true
			interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
			switch h.typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				return answer(h, payload)
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		if mine {
			f(b)
		}
	}
	return interrupted, nil
}

// write sends the requests in batches. Only the last of each batch asks for an
// answer; the kernel works on messages in order and answers those that fail
// unasked, so that silence before the last answer means success.
func (k *netlinkKernel) write(reqs []request) error {
	for len(reqs) > 0 {
		k.enc.b = k.enc.b[:0]
		n, first := 0, k.req.seq+1
		for n < len(reqs) && n < batchMessages && len(k.enc.b) < batchBytes {
			k.encode(&reqs[n], k.req.nextSeq())
			reqs[n].err = nil
			n++
		}
		k.enc.setFlags(unix.NLM_F_ACK)
		err := k.req.send(k.enc.b)
		if err == nil {
			err = k.answers(first, reqs[:n])
		}
		if err != nil {
			return fmt.Errorf("write %d routes and nexthops: %w", n, err)
		}
		reqs = reqs[n:]
	}
	return nil
}

func (k *netlinkKernel) encode(r *request, seq uint32) {
	flags := uint16(unix.NLM_F_REQUEST)
	switch r.mode {
	case modeCreate:
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case modeReplace:
		flags |= unix.NLM_F_REPLACE
	case modePut:
		flags |= unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	case modeDelete:
	}
	switch {
	case r.route != nil && r.mode == modeDelete:
		encodeRoute(&k.enc, unix.RTM_DELROUTE, flags, seq, r.route)
	case r.route != nil:
		encodeRoute(&k.enc, unix.RTM_NEWROUTE, flags, seq, r.route)
	case r.mode == modeDelete:
		encodeObject(&k.enc, unix.RTM_DELNEXTHOP, flags, seq, r.object)
	default:
		encodeObject(&k.enc, unix.RTM_NEWNEXTHOP, flags, seq, r.object)
	}
}

// answers reads the kernel's answers until that to the last request.
func (k *netlinkKernel) answers(first uint32, reqs []request) error {
	last := uint32(len(reqs) - 1)
	for done := false; !done; {
		b, err := k.req.receive(0)
		if err != nil {
			return err
		}
		err = eachMessage(b, func(h header, payload []byte) error {
			i := h.seq - first
			if h.typ != unix.NLMSG_ERROR || i > last {
				return nil // a late answer to something given up
			}
			reqs[i].err = answer(h, payload)
			done = done || i == last
			if errors.Is(reqs[i].err, errMalformed) {
				return reqs[i].err
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
