package gobgp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/osrg/gobgp/v4/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gobgp "github.com/osrg/gobgp/v4/pkg/server"
)

// consoleOptions have a server answer GoBGP's own client at the unix socket, which
// only the owner of the process can reach: its folder is made for it alone. What
// changes something is refused, as the next Set would not know of it, and
// passwords are left out of the answers.
func consoleOptions(socket string) ([]gobgp.ServerOption, error) {
	if socket == "" {
		return nil, nil
	}
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of GoBGP's socket: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the folder of GoBGP's socket: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner can reach GoBGP's socket: chmod 700 %s, or choose another folder", dir)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove what is in the place of GoBGP's socket: %w", err)
	}
	return []gobgp.ServerOption{
		gobgp.GrpcListenAddress("unix://" + socket),
		gobgp.GrpcOption([]grpc.ServerOption{
			grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
				if err := onlyShows(info.FullMethod); err != nil {
					return nil, err
				}
				return h(ctx, req)
			}),
			grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
				if err := onlyShows(info.FullMethod); err != nil {
					return err
				}
				return h(srv, discreet{s})
			}),
		}),
	}, nil
}

// onlyShows refuses calls of methods that may change something.
func onlyShows(method string) error {
	name := path.Base(method)
	for _, verb := range []string{"Get", "List", "Watch"} {
		if strings.HasPrefix(name, verb) {
			return nil
		}
	}
	return status.Errorf(codes.PermissionDenied, "%s is refused: this socket only shows; what the speaker does is set by BGPConfig, BGPPeer and BGPFilter", name)
}

// discreet is a stream of answers without passwords.
type discreet struct{ grpc.ServerStream }

func (d discreet) SendMsg(m any) error {
	switch m := m.(type) {
	case *api.ListPeerResponse:
		hidePassword(m.GetPeer().GetConf())
	case *api.ListPeerGroupResponse:
		if c := m.GetPeerGroup().GetConf(); c != nil {
			c.AuthPassword = hidden(c.AuthPassword)
		}
	case *api.WatchEventResponse:
		hidePassword(m.GetPeer().GetPeer().GetConf())
	}
	return d.ServerStream.SendMsg(m) //nolint:wrapcheck // gRPC's own errors
}

func hidePassword(c *api.PeerConf) {
	if c != nil {
		c.AuthPassword = hidden(c.AuthPassword)
	}
}

func hidden(password string) string {
	if password == "" {
		return ""
	}
	return "(hidden)"
}
