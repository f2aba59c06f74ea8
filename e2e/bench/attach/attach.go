// Package attach measures what a container runtime waits for when it attaches
// and detaches a pod: the plugin's process, from its start to its end. Godwit's
// plugin with the real agent behind it, and the reference plugins ptp and
// host-local, take turns on the same pods.
//
// The agent lives from a checkpoint, as on a node whose API server is away:
// nothing on a pod's way needs the API. Deleting a veth link is slow in the
// kernel; ptp waits for it, Godwit's DEL leaves it to the agent. What the agent
// is still busy with is measured too, and each contender starts when the other
// has nothing left to do.
package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// Options are a benchmark's.
type Options struct {
	Agent, Plugin string // Godwit's programs
	Reference     string // the folder with ptp and host-local
	Runs          int    // ADDs and DELs of each contender; 100 is what the target is for
	Progress      io.Writer
}

// The targets: Godwit's median by that of the reference plugins.
const (
	ofReferenceAdd = 0.4
	ofReferenceDel = 0.4
)

// Pods of a round are attached one by one, then detached one by one.
const (
	podsPerRound = 10
	warmUpRounds = 1
)

// contender is a CNI plugin.
type contender struct {
	name   string
	path   string
	config []byte
	env    []string
	idle   func(context.Context) error // returns when it has nothing left to do
}

// Run measures. It needs root.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	st, err := newStage(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("set the stage: %w", err)
	}
	defer func() { err = errors.Join(err, st.remove(context.WithoutCancel(ctx))) }()
	if err := st.warm(ctx); err != nil {
		return nil, err
	}
	ours, reference := st.godwit(o), st.reference(o)
	r := &Report{}
	for round := range warmUpRounds + (o.Runs+podsPerRound-1)/podsPerRound {
		if round == warmUpRounds {
			r = &Report{} // what was measured until here was the warming up
		}
		_, _ = fmt.Fprintf(o.Progress, "\r\033[Kattaching pods: round %d", round+1)
		for _, c := range []struct {
			contender
			into *Times
		}{{ours, &r.Godwit}, {reference, &r.Reference}} {
			if err := st.round(ctx, c.contender, c.into); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	_, _ = fmt.Fprint(o.Progress, "\r\033[K")
	return r, nil
}

// round attaches and detaches all pods once.
func (st *stage) round(ctx context.Context, c contender, into *Times) error {
	for i := range podsPerRound {
		took, err := st.exec(ctx, c, "ADD", i)
		if err != nil {
			return err
		}
		into.Add = append(into.Add, took)
	}
	last := time.Now()
	for i := range podsPerRound {
		took, err := st.exec(ctx, c, "DEL", i)
		if err != nil {
			return err
		}
		into.Del = append(into.Del, took)
		last = time.Now()
	}
	if err := c.idle(ctx); err != nil {
		return err
	}
	into.Rest = append(into.Rest, time.Since(last))
	return nil
}

// exec executes a plugin in the node's namespace, as its runtime does.
func (st *stage) exec(ctx context.Context, c contender, verb string, pod int) (time.Duration, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.path) // #nosec G204 -- the programs that are measured
	cmd.Env = append([]string{
		"CNI_COMMAND=" + verb,
		"CNI_CONTAINERID=bench" + strconv.Itoa(pod),
		"CNI_NETNS=" + namespace.Path(st.pod(pod)),
		"CNI_IFNAME=eth0",
	}, c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.config), &stdout, &stderr
	var start time.Time
	err := namespace.Do(st.node, func() error {
		start = time.Now()
		return cmd.Start()
	})
	if err == nil {
		err = cmd.Wait()
	}
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s%s", verb, err, stdout.String(), stderr.String())
	}
	return took, nil
}

func (st *stage) godwit(o Options) contender {
	return contender{
		name: "Godwit", path: o.Plugin,
		config: mustJSON(map[string]any{"cniVersion": "1.0.0", "name": "bench", "type": "godwit-cni", "socket": st.socket}),
		idle:   st.noPods,
	}
}

func (st *stage) reference(o Options) contender {
	return contender{
		name: "ptp and host-local", path: o.Reference + "/ptp",
		config: mustJSON(map[string]any{
			"cniVersion": "1.0.0", "name": "bench-reference", "type": "ptp", "ipMasq": false,
			"ipam": map[string]any{"type": "host-local", "subnet": "172.26.0.0/24", "dataDir": st.dir + "/host-local"},
		}),
		env:  []string{"CNI_PATH=" + o.Reference},
		idle: func(context.Context) error { return nil },
	}
}

func mustJSON(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of plain values
	}
	return out
}

// noPods waits until the agent has deleted the links of all pods.
func (st *stage) noPods(ctx context.Context) error {
	return await(ctx, 10*time.Second, "links of detached pods to go", func() (bool, error) {
		links, err := os.ReadDir(st.linksDir())
		if err != nil {
			return false, err
		}
		for _, l := range links {
			if strings.HasPrefix(l.Name(), "gw") && l.Name() != uplink && l.Name() != uplink+"p" {
				return false, nil
			}
		}
		return true, nil
	})
}

// await asks every millisecond until it is so.
func await(ctx context.Context, limit time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
