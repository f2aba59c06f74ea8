package routes

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/internal/netnstest"
)

const patience = 30 * time.Second // on a busy machine

// start runs a table in a namespace until the test ends or stop is called.
func start(t testing.TB, ns *netnstest.NS, o Options) *Table {
	t.Helper()
	var tb *Table
	var err error
	ns.Do(func() { tb, err = Open(o) })
	if err != nil {
		t.Fatal(err)
	}
	run(t, tb)
	return tb
}

// startOn is start with something around the kernel.
func startOn(t testing.TB, ns *netnstest.NS, o Options, around func(*netlinkKernel) kernel) *Table {
	t.Helper()
	var tb *Table
	ns.Do(func() {
		k, err := openNetlink(unix.RT_TABLE_MAIN)
		if err != nil {
			t.Fatal(err)
		}
		tb = newTable(o, around(k))
	})
	run(t, tb)
	return tb
}

func run(t testing.TB, tb *Table) {
	t.Helper()
	ran := make(chan error, 1)
	go func() { ran <- tb.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := tb.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ran; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("Run: %v", err)
		}
	})
}

// settle waits for the table to have its first look at the kernel.
func settle(t testing.TB, tb *Table) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := tb.Wait(ctx, netip.MustParsePrefix("198.51.100.255/32")); err != nil {
		t.Fatal(err)
	}
}

// wait waits for the routes to be installed.
func wait(t testing.TB, tb *Table, rs ...Route) {
	t.Helper()
	if err := waitErr(tb, rs...); err != nil {
		t.Fatal(err)
	}
}

func waitErr(tb *Table, rs ...Route) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var dsts []netip.Prefix
	for _, r := range rs {
		dsts = append(dsts, r.Dst)
	}
	return tb.Wait(ctx, dsts...)
}

// eventually waits for ok to be true.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begin)
}

func now() time.Time { return time.Now() }

// modes runs a test with nexthop objects and with plain routes.
func modes(t *testing.T, f func(t *testing.T, o Options)) {
	t.Run("objects", func(t *testing.T) { f(t, Options{}) })
	t.Run("plain", func(t *testing.T) { f(t, Options{PlainRoutes: true}) })
}

// syncAll says that every class is complete.
func syncAll(tb *Table) {
	for _, c := range Classes() {
		tb.Synced(c)
	}
}

func dsts(rs []Route) []netip.Prefix {
	var ps []netip.Prefix
	for _, r := range rs {
		ps = append(ps, r.Dst)
	}
	return ps
}

// shrink gives a socket the least receive buffer.
func shrink(t testing.TB, s *socket) {
	t.Helper()
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
}
