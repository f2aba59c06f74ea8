package untiring

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
)

// A connection is given up when the network does not answer for long, whether or
// not something was sent.
func TestConnectionsAreGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := Config(&rest.Config{}).Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct{ level, option, want int }{
		"until what was sent is given up, ms": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10000},
		"whether an idle one is looked after": {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"idle until the network is asked, s":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
		"until it is asked again, s":          {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
	} {
		var got int
		var asked error
		err := raw.Control(func(fd uintptr) { got, asked = unix.GetsockoptInt(int(fd), o.level, o.option) })
		if err = errors.Join(err, asked); err != nil || got != o.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, o.want)
		}
	}
}
