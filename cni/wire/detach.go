package wire

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// doomedGroup is the interface group that given-up links are put into, so that
// one message deletes them all: the kernel waits for its readers (16 to 20 ms,
// with the RTNL lock held) once for a message, not once for a link. The number
// spells "gwx1".
const doomedGroup = 0x67777831

// Doom gives an attachment up: the link is marked, and the next Sweep, of
// whatever process, deletes it. It takes microseconds where deleting takes
// milliseconds. An attachment that is not there is no error: found is false.
func (w *Wirer) Doom(_ context.Context, containerID, ifName string) (l Link, found bool, err error) {
	name := HostEnd(containerID, ifName)
	err = w.rt.with(func(c *conn) error {
		info, there, err := c.linkByName(name)
		if err != nil {
			return err
		}
		// A link of the name that is not this attachment's is not ours to touch.
		if !there || !info.of(containerID, ifName) {
			return nil
		}
		alias, err := info.identity.alias(true)
		if err != nil {
			return err
		}
		var b batch
		b.link("give up "+name, unix.RTM_SETLINK, unix.NLM_F_ACK, info.index, false)
		b.attr(unix.IFLA_IFALIAS, []byte(alias))
		b.attr32(unix.IFLA_GROUP, doomedGroup)
		b.end()
		if err := c.do(&b, nil); err != nil {
			if errors.Is(err, unix.ENODEV) { // its namespace went meanwhile
				return nil
			}
			return err
		}
		l, found = info.link(), true
		l.Doomed = true
		return nil
	})
	return l, found, err
}

// Sweep deletes every link that was doomed before the call, and returns when
// they are gone.
func (w *Wirer) Sweep(ctx context.Context) error {
	return w.rt.with(func(c *conn) error {
		var doomed []linkInfo
		foreign := false
		all, err := c.veths()
		if err != nil {
			return err
		}
		for _, l := range all {
			switch {
			case l.ours && l.doomed:
				doomed = append(doomed, l)
			case l.group == doomedGroup:
				foreign = true
			}
		}
		if len(doomed) == 0 {
			return nil
		}
		if len(doomed) > 1 && !foreign {
			var b batch
			b.link("delete the links that were given up", unix.RTM_DELLINK, unix.NLM_F_ACK, 0, false)
			b.attr32(unix.IFLA_GROUP, doomedGroup)
			b.end()
			if err := c.do(&b, nil); err != nil && !errors.Is(err, unix.ENODEV) {
				return err
			}
		}
		// One by one: those whose group was changed, if any, and all of them when
		// somebody else uses the group too.
		var errs []error
		for _, l := range doomed {
			if len(doomed) > 1 && !foreign && l.group == doomedGroup {
				continue
			}
			if err := ctx.Err(); err != nil {
				return errors.Join(append(errs, err)...)
			}
			if err := c.deleteLink(l.index); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// List returns all attachments of the node, doomed ones too.
func (w *Wirer) List(_ context.Context) ([]Link, error) {
	var list []Link
	err := w.rt.with(func(c *conn) error {
		all, err := c.veths()
		for _, l := range all {
			if l.ours {
				list = append(list, l.link())
			}
		}
		return err
	})
	return list, err
}

func (l linkInfo) link() Link {
	return Link{Identity: l.identity, Doomed: l.doomed, HostEnd: l.name, HostMAC: l.mac}
}

// veths returns all veth links of the socket's namespace. Links that come and
// go meanwhile can make the kernel skip others; it tells, and is asked again.
func (c *conn) veths() (list []linkInfo, err error) {
	const tries = 20
	for range tries {
		var b batch
		b.link("list the veth links", unix.RTM_GETLINK, unix.NLM_F_DUMP, 0, false)
		b.attr32(unix.IFLA_EXT_MASK, skipStats)
		b.nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func() { b.attr(unix.IFLA_INFO_KIND, []byte("veth")) })
		b.end()
		list = nil
		err = c.do(&b, func(r reply) error {
			if l, ok := parseLink(r); ok {
				list = append(list, l)
			}
			return nil
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return list, err
}

// Find looks up an attachment that was not given up.
func (w *Wirer) Find(_ context.Context, containerID, ifName string) (l Link, found bool, err error) {
	err = w.rt.with(func(c *conn) error {
		info, there, err := c.linkByName(HostEnd(containerID, ifName))
		if there && info.of(containerID, ifName) && !info.doomed {
			l, found = info.link(), true
		}
		return err
	})
	return l, found, err
}

// of tells whether a link is the host's end of an attachment.
func (l linkInfo) of(containerID, ifName string) bool {
	return l.ours && l.identity.ContainerID == containerID && l.identity.Interface == ifName
}
