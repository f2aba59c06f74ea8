package routes

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

const patience = 10 * time.Second

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

func run(t testing.TB, tb *Table) {
	t.Helper()
	ran := make(chan error, 1)
	go func() { ran <- tb.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := tb.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ran; err != nil {
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
