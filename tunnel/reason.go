package tunnel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// step is what a request to the kernel does, in words that its object follows.
type step string

const (
	stepCreate   step = "create"
	stepDelete   step = "delete"
	stepMark     step = "mark"
	stepMTU      step = "set the MTU of"
	stepMAC      step = "set the MAC address of"
	stepForward  step = "let IPv4 be forwarded by"
	stepGenMode  step = "let no address be generated for"
	stepUp       step = "bring up"
	stepAddAddr  step = "add the address"
	stepDelAddr  step = "remove the address"
	stepAddFDB   step = "add the forwarding entry for"
	stepDelFDB   step = "remove the forwarding entry for"
	stepAddNeigh step = "add the neighbour entry for"
	stepDelNeigh step = "remove the neighbour entry for"
)

// refusal is the kernel's answer to a request that it did not carry out.
type refusal struct {
	step  step
	of    any
	errno unix.Errno
	text  string // the kernel's own words, often empty
}

func (e *refusal) Error() string {
	s := string(e.step)
	if e.of != nil {
		s = fmt.Sprintf("%s %v", e.step, e.of)
	}
	if e.text == "" {
		return fmt.Sprintf("%s: %v", s, e.errno)
	}
	return fmt.Sprintf("%s: %v (%s)", s, e.errno, e.text)
}

func (e *refusal) Unwrap() error { return e.errno }

// explain makes one error of what was refused for a device, by the first that
// has a reason.
func explain(w *want, refused []error) error {
	var first error
	others := -1
	for _, err := range refused {
		if err == nil || gone(err) {
			continue
		}
		if reason := reasonOf(w, err); reason != nil {
			return fmt.Errorf("%w: %w", reason, err)
		}
		if first == nil {
			first = err
		}
		others++
	}
	if others > 0 {
		return fmt.Errorf("%w (and %d more)", first, others)
	}
	return first
}

// reasonOf tells what a refusal means, nil if no more than it says.
func reasonOf(w *want, err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return nil
	}
	switch r.step {
	case stepCreate, stepUp:
		switch r.errno {
		case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPFNOSUPPORT:
			return ErrNotSupported
		case unix.EADDRINUSE:
			return ErrPortInUse
		case unix.EEXIST:
			// The plan found the name free and nobody in the way, so it came since.
			if w.Kind == VXLAN {
				return ErrPortInUse
			}
			return ErrDeviceConflict
		}
	case stepMTU:
		if r.errno == unix.EINVAL {
			return ErrMTUTooLarge
		}
	}
	return nil
}

// gone tells whether what was to be removed was not there any more.
func gone(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.step {
	case stepDelete, stepDelAddr, stepDelFDB, stepDelNeigh:
	default:
		return false
	}
	switch r.errno {
	case unix.ENOENT, unix.ENODEV, unix.ESRCH, unix.EADDRNOTAVAIL:
		return true
	}
	return false
}
