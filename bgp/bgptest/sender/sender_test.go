package sender

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// split cuts a stream of messages.
func split(t *testing.T, stream []byte) (bodies [][]byte) {
	t.Helper()
	for len(stream) > 0 {
		n := int(binary.BigEndian.Uint16(stream[16:]))
		if n > maxLength {
			t.Fatalf("a message of %d bytes", n)
		}
		bodies = append(bodies, stream[headerLength:n])
		stream = stream[n:]
	}
	return bodies
}

func parseAll(t *testing.T, stream []byte) (all []Change) {
	t.Helper()
	for _, body := range split(t, stream) {
		c, err := ParseUpdate(body)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func TestUpdatesAreReadAsWritten(t *testing.T) {
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	samePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	v4 := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.1.2.0/23"), netip.MustParsePrefix("10.1.2.3/32")}
	v6 := []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("fd00::40/122")}
	r4 := Route{NextHop: netip.MustParseAddr("10.0.0.1"), ASPath: []uint32{65001, 4200000000}, MED: 5, LocalPref: 200, Communities: []uint32{64512<<16 | 1, 65535 << 16}, LargeCommunities: [][3]uint32{{64512, 1, 2}}}
	r6 := Route{NextHop: netip.MustParseAddr("fd00::1"), ASPath: []uint32{65001}}
	both := Route{NextHop: netip.MustParseAddr("fd00::1"), LinkLocal: netip.MustParseAddr("fe80::1"), ASPath: []uint32{65001}}
	mapped := Route{NextHop: netip.MustParseAddr("::ffff:10.0.0.1"), ASPath: []uint32{65001}}
	for _, c := range []struct {
		stream []byte
		want   []Change
	}{
		{Update(r4, v4...), []Change{{Announced: v4, Route: r4}}},
		{Update(r6, v6...), []Change{{Announced: v6, Route: r6}}},
		{Update(both, v6...), []Change{{Announced: v6, Route: both}}},
		{Update(mapped, v6...), []Change{{Announced: v6, Route: mapped}}},
		{Update(r6, v4...), []Change{{Announced: v4, Route: r6}}}, // RFC 8950
		{Withdraw(v4...), []Change{{Withdrawn: v4}}},
		{Withdraw(v6...), []Change{{Withdrawn: v6}}},
		{EndOfRIB(true), []Change{{EndOfRIB4: true}}},
		{EndOfRIB(false), []Change{{EndOfRIB6: true}}},
	} {
		if diff := cmp.Diff(c.want, parseAll(t, c.stream), same, samePrefix); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestTable(t *testing.T) {
	seen := make(map[netip.Prefix]netip.Addr)
	changes := parseAll(t, Table(3001, 1500))
	for _, c := range changes {
		for _, p := range c.Announced {
			seen[p] = c.Route.NextHop
		}
	}
	if len(changes) != 1501 || !changes[1500].EndOfRIB4 {
		t.Errorf("%d messages", len(changes))
	}
	if len(seen) != 3001 || seen[TablePrefix(0)] != TableHop(0) || seen[TablePrefix(3000)] != TableHop(1499) {
		t.Errorf("%d prefixes; the last leads to %v", len(seen), seen[TablePrefix(3000)])
	}
	// Many prefixes with one next hop fill several messages.
	if n := len(parseAll(t, Table(5000, 1))); n < 6 || n > 9 {
		t.Errorf("5000 prefixes are in %d messages", n)
	}
}

func FuzzParseUpdate(f *testing.F) {
	f.Add(Update(Route{NextHop: TableHop(0), ASPath: []uint32{1}, MED: 1, LocalPref: 1}, TablePrefix(0))[headerLength:])
	f.Add(Withdraw(netip.MustParsePrefix("fd00::/64"))[headerLength:])
	f.Add(EndOfRIB(false)[headerLength:])
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ParseUpdate(body)
		if err != nil {
			return
		}
		for _, p := range slices.Concat(c.Announced, c.Withdrawn) {
			if !p.IsValid() {
				t.Errorf("an invalid prefix of %x", body)
			}
		}
	})
}

func TestTwoSendersTalk(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got := make(chan Change, 10)
	accepted := make(chan *Session, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		s, err := Start(ctx, conn, Options{ASN: 1, RouterID: TableHop(1), OnUpdate: func(c Change) { got <- c }})
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	}()
	a, err := Dial(ctx, netip.MustParseAddrPort(l.Addr().String()), Options{ASN: 4200000000, RouterID: TableHop(2), RestartTime: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	b := <-accepted
	if err := a.Send(Table(2, 1)); err != nil {
		t.Fatal(err)
	}
	if c := <-got; len(c.Announced) != 2 {
		t.Errorf("got %+v", c)
	}
	a.Cease(2)
	var n *Notification
	if err := b.Err(); !errors.As(err, &n) || n.Code != 6 || n.Subcode != 2 {
		t.Errorf("the session ended with %v", err)
	}
}
