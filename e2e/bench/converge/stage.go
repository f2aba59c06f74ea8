package converge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// prefix begins the names of all namespaces; the process id of their owner
// follows.
const prefix = "gwbench-"

// stage is what one run takes place on: two namespaces with a cable between
// them, and a folder.
type stage struct {
	router, sender string
	dir            string
}

func newStage(ctx context.Context) (_ *stage, err error) {
	id := prefix + strconv.Itoa(os.Getpid())
	st := &stage{router: id + "-router", sender: id + "-sender"}
	if st.dir, err = os.MkdirTemp("", prefix); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.remove())
		}
	}()
	if err := os.Chmod(st.dir, 0o755); err != nil { // #nosec G302 -- FRR runs as its own user
		return nil, err
	}
	for _, ns := range []string{st.router, st.sender} {
		if err := namespace.Add(ctx, ns); err != nil {
			return nil, err
		}
	}
	for _, line := range []string{
		"-n " + st.router + " link add gwb0 type veth peer name gwb1 netns " + st.sender,
		"-n " + st.router + " addr add " + routerAddress().String() + "/8 dev gwb0",
		"-n " + st.sender + " addr add " + senderAddress().String() + "/8 dev gwb1",
		"-n " + st.router + " link set gwb0 up",
		"-n " + st.sender + " link set gwb1 up",
	} {
		out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput() // #nosec G204 -- our own words
		if err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return st, nil
}

func (st *stage) remove() error {
	return errors.Join(namespace.Delete(st.router), namespace.Delete(st.sender), os.RemoveAll(st.dir))
}

// sweep removes the namespaces of benchmarks that were killed.
func sweep() error {
	names, err := namespace.List(prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, namespace.Delete(name))
		}
	}
	return errors.Join(errs...)
}
