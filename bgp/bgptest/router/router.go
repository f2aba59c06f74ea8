// Package router runs real BIRD 2 and FRR daemons in network namespaces, with
// whatever configuration a test gives them.
//
// Invariants:
//   - A router's files and sockets are in its directory, apart from FRR's crash
//     logs, which Stop removes.
//   - Stop ends exactly the processes that were started.
package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startTimeout bounds how long a daemon may take until it answers.
const startTimeout = 15 * time.Second

// Router is a running router.
type Router struct {
	netns   string
	dir     string
	daemons []*daemon
	ask     func(ctx context.Context, command string) (string, error)
}

type daemon struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// StartBIRD runs BIRD 2 in a named network namespace, with its files in dir,
// which must exist, and returns when it takes commands.
func StartBIRD(ctx context.Context, netns, dir, conf string) (*Router, error) {
	r := &Router{netns: netns, dir: dir}
	r.ask = r.birdc
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	if err := r.start("bird", "/usr/sbin/bird", "-f", "-c", file, "-s", r.socket(), "-P", filepath.Join(dir, "bird.pid")); err != nil {
		return nil, err
	}
	return r, r.ready(ctx, "bird", func(ctx context.Context) error {
		_, err := r.birdc(ctx, "show status")
		return err
	})
}

// StartFRR runs FRR's zebra and bgpd in a named network namespace, with their
// files in dir, which must exist and is given to the user frr. bgpd gets the
// configuration, zebra none.
func StartFRR(ctx context.Context, netns, dir, conf string) (*Router, error) {
	return StartFRRAt(ctx, netns, dir, 0, conf)
}

// StartFRRAt is StartFRR with bgpd at a TCP port that is not BGP's, if it is not 0.
func StartFRRAt(ctx context.Context, netns, dir string, port uint16, conf string) (*Router, error) {
	r := &Router{netns: netns, dir: dir}
	r.ask = func(ctx context.Context, c string) (string, error) { return r.vtysh(ctx, "bgpd", c) }
	if err := giveTo(dir, "frr"); err != nil {
		return nil, err
	}
	for _, name := range []string{"zebra", "bgpd"} {
		file := filepath.Join(dir, name+".conf")
		text := "log stdout informational\n"
		if name == "bgpd" {
			text += conf
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil { // #nosec G306 -- read by the user frr
			return nil, errors.Join(err, r.Stop())
		}
		args := []string{
			"/usr/lib/frr/" + name, "-f", file, "-i", filepath.Join(dir, name+".pid"),
			"-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir, "-P", "0", "-A", "127.0.0.1",
		}
		if name == "bgpd" && port != 0 {
			args = append(args, "-p", strconv.Itoa(int(port)))
		}
		err := r.start(name, args...)
		if err != nil {
			return nil, errors.Join(err, r.Stop())
		}
		err = r.ready(ctx, name, func(ctx context.Context) error {
			_, err := r.vtysh(ctx, name, "show version")
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Show asks the router's own command-line program (birdc or vtysh) and returns
// what it says.
func (r *Router) Show(ctx context.Context, command string) (string, error) {
	return r.ask(ctx, command)
}

// Log returns what the router's daemons have logged.
func (r *Router) Log() string {
	var b strings.Builder
	for _, d := range r.daemons {
		text, _ := os.ReadFile(d.log)
		fmt.Fprintf(&b, "== %s\n%s", d.name, text)
	}
	return b.String()
}

// Stop ends the router's processes, asking first. It may be called twice.
func (r *Router) Stop() error {
	var errs []error
	for i := len(r.daemons) - 1; i >= 0; i-- {
		d := r.daemons[i]
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.done:
		case <-time.After(5 * time.Second):
			_ = d.cmd.Process.Kill()
			<-d.done
		}
		// FRR's daemons make a directory for crash logs that no option moves.
		const frrTemp = "/var/tmp/frr"
		errs = append(errs, os.RemoveAll(filepath.Join(frrTemp, d.name+"."+strconv.Itoa(d.cmd.Process.Pid))))
		_ = os.Remove(frrTemp) // when empty
	}
	r.daemons = nil
	return errors.Join(errs...)
}

func (r *Router) start(name string, argv ...string) error {
	if _, err := os.Stat(argv[0]); err != nil {
		return fmt.Errorf("%s is missing: install the packages bird2 and frr: %w", name, err)
	}
	d := &daemon{name: name, done: make(chan struct{}), log: filepath.Join(r.dir, name+".log")}
	out, err := os.Create(d.log)
	if err != nil {
		return err
	}
	// `ip netns exec` becomes the daemon, so its process id is the daemon's.
	d.cmd = exec.Command("ip", append([]string{"netns", "exec", r.netns}, argv...)...) // #nosec G204 -- a test's own words
	d.cmd.Stdout, d.cmd.Stderr = out, out
	err = d.cmd.Start()
	_ = out.Close()
	if err != nil {
		return err
	}
	r.daemons = append(r.daemons, d)
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	return nil
}

// ready waits until a daemon answers; else it stops the router.
func (r *Router) ready(ctx context.Context, name string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	d := r.daemons[len(r.daemons)-1]
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.done:
			err = errors.New("it ended")
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
			continue
		}
		log := r.Log()
		return errors.Join(fmt.Errorf("%s does not answer: %w\n%s", name, err, log), r.Stop())
	}
}

func (r *Router) socket() string { return filepath.Join(r.dir, "bird.ctl") }

func (r *Router) birdc(ctx context.Context, command string) (string, error) {
	out, err := run(ctx, "/usr/sbin/birdc", append([]string{"-s", r.socket()}, strings.Fields(command)...)...)
	if err != nil {
		return "", err
	}
	// birdc greets before it answers.
	_, answer, ok := strings.Cut(out, "ready.\n")
	if !ok {
		return "", fmt.Errorf("birdc: %s", strings.TrimSpace(out))
	}
	return answer, nil
}

func (r *Router) vtysh(ctx context.Context, daemon, command string) (string, error) {
	return run(ctx, "/usr/bin/vtysh", "--vty_socket", r.dir, "--config_dir", r.dir, "-d", daemon, "-c", command)
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) // #nosec G204 -- a test's own words
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", filepath.Base(name), err, errOut.String(), out.String())
	}
	return out.String(), nil
}

func giveTo(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("the user %s comes with the package frr: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}

// Netns is the name of the namespace that the router runs in.
func (r *Router) Netns() string { return r.netns }
