package gobgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

func TestConsoleShowsAndChangesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	socket := filepath.Join(t.TempDir(), "private", "gobgp.sock")
	s := newSink()
	sp := start(t, Options{Sink: s, Console: socket})
	c := baseConfig(t)
	p := nodePeer("127.0.0.2", 1)
	p.Password = "top-secret"
	c.Peers = []bgp.Peer{p}
	set(t, sp, c)
	o := internal("127.0.0.2")
	o.Password = p.Password
	r := newPeerAt(t, speakerAddr(c), o)
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.0.192/26")
	s.waitRoutes(t, "172.25.0.192/26 via 127.0.0.2")

	client := console(t, socket)
	peers, err := client.ListPeer(ctx, &api.ListPeerRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for {
		m, err := peers.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(m), p.Password) {
			t.Errorf("the session's password is shown: %v", m)
		}
		seen = append(seen, fmt.Sprint(m.Peer.State.NeighborAddress, " ", m.Peer.State.SessionState))
	}
	if got, want := fmt.Sprint(seen), "[127.0.0.2 SESSION_STATE_ESTABLISHED]"; got != want {
		t.Errorf("the console shows peers %v, want %v", got, want)
	}

	_, unary := client.DisablePeer(ctx, &api.DisablePeerRequest{Address: "127.0.0.2"})
	stream, err := client.AddPathStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, streamed := stream.CloseAndRecv()
	for what, err := range map[string]error{"DisablePeer": unary, "AddPathStream": streamed} {
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(fmt.Sprint(err), "BGPPeer") {
			t.Errorf("%s: %v, want a refusal that says what to use instead", what, err)
		}
	}
	if got := sessionOf(t, sp, p.Name); got.State != bgp.StateEstablished || got.Flaps != 0 {
		t.Errorf("after calls that were refused the session is %+v", got)
	}

	// Another server, as after a change of the AS number, takes the socket over.
	c.ASN++
	set(t, sp, c)
	answer, err := console(t, socket).GetBgp(ctx, &api.GetBgpRequest{})
	if err != nil || answer.Global.Asn != c.ASN {
		t.Errorf("after a change of the AS number the console says %v, %v; want AS %d", answer, err, c.ASN)
	}
}

func TestConsoleIsPrivateAndTakesOverALeftOver(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "gobgp.sock")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := baseConfig(t)
	open := start(t, Options{Sink: newSink(), Console: socket})
	if err := open.Set(t.Context(), c); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
		t.Errorf("in a folder open to others: %v, want an error that says what to do", err)
	}

	// The same speaker goes on when the folder is right, over what a killed process left.
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, open, c)
	if _, err := console(t, socket).GetBgp(t.Context(), &api.GetBgpRequest{}); err != nil {
		t.Error(err)
	}
}

// console is GoBGP's own client at the socket. Its calls wait until somebody listens.
func console(t *testing.T, socket string) api.GoBgpServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return api.NewGoBgpServiceClient(conn)
}
