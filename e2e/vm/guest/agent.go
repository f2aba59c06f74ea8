package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// portPoll is how often a port is looked at for a host: the kernel lets nobody
// wait for that.
const portPoll = 50 * time.Millisecond

// serve runs the host's commands until the machine is to end.
func serve(b wire.Boot) error {
	ports, err := findPorts()
	if err != nil {
		return err
	}
	// The first to end ends the machine, so nobody waits for the others, which
	// may be amid a read.
	ended := make(chan error, len(ports))
	for name, path := range ports {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0) // #nosec G304 -- a port of the machine's
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(name, wire.SessionPort):
			go func() { ended <- newPort(f).serve(context.Background()) }()
		case name == wire.LifePort && b.EndsWithHost:
			go func() { ended <- waitForEnd(f) }()
		}
	}
	if err := <-ended; !errors.Is(err, errHostGone) {
		return err
	}
	return nil
}

// findPorts returns the device files of the machine's ports by their names.
// They come one by one after the driver was loaded; the life port is the last.
func findPorts() (map[string]string, error) {
	const classDir = "/sys/class/virtio-ports"
	ports := map[string]string{}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(portPoll) {
		names, err := filepath.Glob(filepath.Join(classDir, "*", "name"))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			raw, err := os.ReadFile(n) // #nosec G304 -- the kernel's
			if err != nil {
				return nil, err
			}
			ports[strings.TrimSpace(string(raw))] = filepath.Join("/dev", filepath.Base(filepath.Dir(n)))
		}
		if ports[wire.LifePort] != "" {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("the ports to the host do not come up; there are %v", ports)
}

// hostPresent tells whether a host holds the other end of a port.
func hostPresent(f *os.File) (bool, error) {
	fds := []unix.PollFd{{Events: unix.POLLIN | unix.POLLOUT}}
	err := control(f, func(fd int) error {
		fds[0].Fd = int32(fd)
		_, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return err
	})
	return fds[0].Revents&unix.POLLHUP == 0, err
}

func waitForHost(f *os.File, present bool) error {
	for {
		is, err := hostPresent(f)
		if err != nil || is == present {
			return err
		}
		time.Sleep(portPoll)
	}
}

var errHostGone = errors.New("the host hung up")

// waitForEnd returns when the host took hold of the life port and let it go.
func waitForEnd(f *os.File) error {
	if err := waitForHost(f, true); err != nil {
		return err
	}
	if err := waitForHost(f, false); err != nil {
		return err
	}
	return errHostGone
}
