package main

import (
	"context"
	"io"
	"net"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// proxyCommand passes connections to this machine's loopback on into the
// lab's network. `lab up` runs it, so that kubectl works from any shell.
func proxyCommand() *cobra.Command {
	var netns, to, addressFile string
	cmd := &cobra.Command{
		Use:    "proxy",
		Short:  "Pass connections on into the lab's network",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return proxy(cmd.Context(), netns, to, addressFile)
		},
	}
	cmd.Flags().StringVar(&netns, "netns", "", "the network namespace to connect in")
	cmd.Flags().StringVar(&to, "to", "", "the address to connect to")
	cmd.Flags().StringVar(&addressFile, "address-file", "", "the file to write the listening address to")
	return cmd
}

func proxy(ctx context.Context, netns, to, addressFile string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	// Renamed into place, so that nobody reads half an address.
	if err := os.WriteFile(addressFile+".new", []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(addressFile+".new", addressFile); err != nil {
		return err
	}
	for {
		in, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil // told to end
			}
			return err
		}
		go forward(ctx, in, netns, to)
	}
}

func forward(ctx context.Context, in net.Conn, netns, to string) {
	defer func() { _ = in.Close() }()
	var out net.Conn
	err := namespace.Do(netns, func() (err error) {
		out, err = (&net.Dialer{}).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return // the client sees its connection end
	}
	defer func() { _ = out.Close() }()
	var wg sync.WaitGroup
	for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			// An error of one direction shows in the other, or at the client.
			_, _ = io.Copy(c[0], c[1])
			if tcp, ok := c[0].(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		})
	}
	wg.Wait()
}
