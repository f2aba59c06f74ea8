package untiring

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
)

const (
	// dialTimeout is how long a connection may take to come about. Who is not answered
	// asks the network again after 1 and 3 s, and then ever more seldom.
	dialTimeout = 5 * time.Second
	// silence is after what time without an answer of the network a connection is given
	// up. What was sent meanwhile is sent again ever more seldom, so that a connection
	// that lives through a longer silence stays dumb for as long again.
	silence = 10 * time.Second
	// keepAlive is after what time without traffic the network is asked, and how often
	// then.
	keepAlive = 5 * time.Second
)

// Config returns the configuration of a client that notices within seconds that the
// server can be reached again, also where nothing had said that it could not: what
// is sent vanishes, as when a machine loses its power or a firewall its state. And
// its token is fresh (see WithFreshToken).
func Config(cfg *rest.Config) *rest.Config {
	cfg = WithFreshToken(cfg)
	if cfg.Dial == nil {
		d := net.Dialer{
			Timeout:         dialTimeout,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: int(silence / keepAlive)},
			Control:         giveUp,
		}
		cfg.Dial = d.DialContext
	}
	return cfg
}

// giveUp has a socket given up when what it sent is not acknowledged for long
// (TCP_USER_TIMEOUT, RFC 5482).
func giveUp(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds())) // #nosec G115 -- a descriptor
	})
	if err != nil {
		return err
	}
	return set
}
