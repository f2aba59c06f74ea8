package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	cniapi "github.com/godwit-net/godwit/api/cni"
)

// callTimeout bounds a call of a client that set no bound itself.
const callTimeout = 60 * time.Second

// Listen makes the unix socket at path, for root only. A socket that a server
// which is gone left there is removed; one that is listened on is an error.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { // #nosec G301 -- other programs look into it
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Made under another name and closed to others before it gets its own, so that
	// there is no moment at which others could connect.
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	l.SetUnlinkOnClose(false) // the name may be a later agent's by then
	if err := os.Chmod(temporary, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), l.Close())
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, errors.Join(fmt.Errorf("put the socket in its place: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is no socket: remove it", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("another agent listens on %s: end it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	return nil
}

// Serve serves calls until ctx ends, which is no error. Calls that are being
// worked on then are cancelled and come to their end before it returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	onlyRoot := func(peer *unix.Ucred) error {
		if peer.Uid != 0 {
			s.o.Log.Warn("refusing a caller that is not root", "uid", peer.Uid, "pid", peer.Pid)
			return unix.EPERM
		}
		return nil
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixCredentialsFunc(onlyRoot)))
	if err != nil {
		return errors.Join(fmt.Errorf("make the ttrpc server: %w", err), l.Close())
	}
	cniapi.RegisterCNIService(server, s)

	calls, cancel := context.WithCancel(quiet(context.WithoutCancel(ctx)))
	defer cancel()
	reaper := make(chan struct{})
	reaping, endReaping := context.WithCancel(context.WithoutCancel(ctx))
	go func() { defer close(reaper); s.reapLoop(reaping) }()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-calls.Done()
		_ = server.Close() // the listener first, then the connections
	}()
	defer context.AfterFunc(ctx, cancel)()

	err = server.Serve(calls, l)
	cancel()
	<-stopped
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.serving.Wait()
	endReaping()
	<-reaper
	if errors.Is(err, ttrpc.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve the CNI plugin: %w", err)
}

// quiet keeps ttrpc from logging by itself: what goes wrong with a connection
// is answered or ends the call.
func quiet(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

// serve runs one call. What goes wrong is an answer; a panic ends the call and
// not the agent.
func (s *Server) serve(ctx context.Context, verb string, r *cniapi.Request, f func(context.Context) ([]byte, error)) (resp *cniapi.Response, _ error) {
	if !s.begin() {
		return failed(errorf(CodeTryAgain, "another one is about to start", "the Godwit agent on this node is ending, try again later")), nil
	}
	defer s.serving.Done()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.o.Log.Error("a CNI call panicked", "verb", verb, "panic", p, "stack", string(debug.Stack()))
			resp = failed(errorf(CodeInternal, fmt.Sprint(p), "the Godwit agent has a bug; see its log"))
		}
	}()
	out, err := f(ctx)
	log := s.o.Log.With("verb", verb, "container", r.GetContainerId(), "interface", r.GetIfName(), "took", time.Since(start))
	if err != nil {
		log.Warn("CNI call failed", "err", err)
		return failed(err), nil
	}
	log.Debug("CNI call served", "args", r.GetArgs())
	return &cniapi.Response{Result: out}, nil
}

// begin counts a call in, unless serving has ended.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.serving.Add(1)
	}
	return !s.ended
}

func failed(err error) *cniapi.Response {
	var e *Error
	if !errors.As(err, &e) {
		e = errorf(CodeInternal, err.Error(), "the call failed")
	}
	return &cniapi.Response{Error: &cniapi.Error{Code: e.Code, Msg: e.Msg, Details: e.Details}}
}
