package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nodeConfig is what a node's first process is told.
type nodeConfig struct {
	Name     string    `json:"name"`
	Dir      string    `json:"dir"`
	Images   []string  `json:"images"`
	Path     []string  `json:"path"`
	Services []service `json:"services"`
}

// service is a program that runs as long as the node.
type service struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
}

func (c *nodeConfig) readyFile() string { return filepath.Join(c.Dir, "ready") }

// RunNode is a node's first process: it makes the node's files, runs its
// programs, and starts anew what ends. It returns only with an error.
func RunNode(file string) error {
	raw, err := os.ReadFile(file) // #nosec G304 -- the cluster's own file
	if err != nil {
		return err
	}
	var c nodeConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	if os.Getpid() != 1 {
		return errors.New("a node is started by `cluster up`, not by hand")
	}
	if err := c.mount(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Name)); err != nil {
		return err
	}
	n := &nodeInit{nodeConfig: c, ended: map[int]chan unix.WaitStatus{}, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	go n.bringUp()
	return n.reap()
}

// nodeInit is the state of a node's first process.
type nodeInit struct {
	nodeConfig
	log *slog.Logger

	mu    sync.Mutex
	ended map[int]chan unix.WaitStatus // by process
}

// bringUp starts containerd, gives it the images, and then the others.
func (n *nodeInit) bringUp() {
	i := slices.IndexFunc(n.Services, func(s service) bool { return s.Name == "containerd" })
	go n.keep(n.Services[i])
	for _, image := range n.Images {
		// It fails until containerd listens.
		for !n.imported(image) {
			time.Sleep(200 * time.Millisecond)
		}
	}
	for _, s := range n.Services {
		if s.Name != "containerd" {
			go n.keep(s)
		}
	}
	if err := os.WriteFile(n.readyFile(), nil, 0o600); err != nil {
		n.log.Error("can't say that the node is up", "error", err)
	}
}

// imported gives containerd an image and tells whether it has it now.
func (n *nodeInit) imported(image string) bool {
	return n.run(service{Name: "ctr", Argv: []string{"ctr", "-n", "k8s.io", "images", "import", "--local", image}}) == nil
}

// keep runs a service for ever.
func (n *nodeInit) keep(s service) {
	for {
		err := n.run(s)
		n.log.Warn("a service ended; starting it anew", "service", s.Name, "error", err)
		time.Sleep(time.Second)
	}
}

// run runs a program and returns when it has ended; if not well, with an error.
func (n *nodeInit) run(s service) error {
	log, err := os.OpenFile(filepath.Join(n.Dir, "log", s.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) // #nosec G302 G304 -- logs are to be read
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	path := s.Argv[0]
	if !strings.Contains(path, "/") {
		for _, dir := range n.Path {
			if isFile(filepath.Join(dir, path)) {
				path = filepath.Join(dir, path)
				break
			}
		}
	}
	env := append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") }),
		"PATH="+strings.Join(append(n.Path, "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":"))
	n.mu.Lock()
	p, err := os.StartProcess(path, s.Argv, &os.ProcAttr{Env: env, Files: []*os.File{nil, log, log}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		n.mu.Unlock()
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	ended := make(chan unix.WaitStatus, 1)
	n.ended[p.Pid] = ended
	n.mu.Unlock()
	if status := <-ended; status.ExitStatus() != 0 {
		return fmt.Errorf("%s ended with status %d, signal %d", s.Name, status.ExitStatus(), status.Signal())
	}
	return nil
}

// reap takes leave of every process that ends, also of those whose parents are
// gone, as a first process must.
func (n *nodeInit) reap() error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			time.Sleep(50 * time.Millisecond)
			continue
		case err != nil:
			return err
		}
		n.mu.Lock()
		if ended := n.ended[pid]; ended != nil {
			delete(n.ended, pid)
			ended <- status
		}
		n.mu.Unlock()
	}
}
