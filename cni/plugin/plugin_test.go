package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"

	cniapi "github.com/godwit-net/godwit/api/cni"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build makes the binary as it is shipped.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "godwit-cni")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/godwit-net/godwit/cmd/godwit-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// run runs the plugin in this process, as Run would be in its own.
func run(t *testing.T, stdin string, env ...string) (stdout string, exit int) {
	t.Helper()
	in, err := os.Create(filepath.Join(t.TempDir(), "in"))
	out, oerr := os.Create(filepath.Join(t.TempDir(), "out"))
	if err := errors.Join(err, oerr); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = out.Close() }()
	if _, err := in.WriteAt([]byte(stdin), 0); err != nil {
		t.Fatal(err)
	}
	exit = Run(Process{
		Getenv: func(name string) string {
			for _, e := range env {
				if v, ok := strings.CutPrefix(e, name+"="); ok {
					return v
				}
			}
			return ""
		},
		Stdin: int(in.Fd()), Stdout: int(out.Fd()),
	})
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text), exit
}

type cniError struct {
	CNIVersion   string `json:"cniVersion"`
	Code         uint
	Msg, Details string
}

func parse(t *testing.T, out string) cniError {
	t.Helper()
	var e cniError
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return e
}

func TestVersionNeedsNoAgent(t *testing.T) {
	for in, want := range map[string]string{
		`{"cniVersion":"0.4.0"}`: `{"cniVersion":"0.4.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}` + "\n",
		``:                       `{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}` + "\n",
	} {
		if out, exit := run(t, in, "CNI_COMMAND=VERSION"); out != want || exit != 0 {
			t.Errorf("%q: %d, %q", in, exit, out)
		}
	}
}

func TestErrorsWithoutAgent(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	dead := filepath.Join(t.TempDir(), "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	config := func(socket string) string { return `{"cniVersion":"1.0.0","name":"n","socket":"` + socket + `"}` }
	for _, c := range []struct {
		command, stdin string
		code           uint
		version        string
		says           string // in msg or details
	}{
		{"ADD", config(none), 11, "1.0.0", "the Godwit agent on this node does not answer on " + none + " (connect: no such file or directory): check the godwit-agent pod"},
		{"DEL", config(none), 11, "1.0.0", "try again later"},
		{"CHECK", config(none), 11, "1.0.0", "try again later"},
		{"GC", config(none), 11, "1.0.0", "try again later"},
		{"STATUS", config(none), 50, "1.0.0", "does not answer"},
		{"ADD", config(dead), 11, "1.0.0", "connection refused"},
		{"ADD", config(strings.Repeat("/long", 40)), 11, "1.0.0", "connect: invalid argument"},
		{"ADD", `{"cniVersion":"1.0.0"`, 6, "1.0.0", "the network configuration is not a JSON object"},
		{"ADD", ``, 6, "1.1.0", "it is empty"},
		{"ADD", config(none) + strings.Repeat(" ", maxMessage), 11, "1.0.0", "the network configuration is too large"},
		{"", config(none), 4, "1.0.0", "CNI_COMMAND is not set"},
		{"add", config(none), 4, "1.0.0", `CNI_COMMAND is "add"`},
	} {
		start := time.Now()
		out, exit := run(t, c.stdin, "CNI_COMMAND="+c.command)
		e := parse(t, out)
		if exit != 1 || e.Code != c.code || e.CNIVersion != c.version || !strings.Contains(e.Msg+"\n"+e.Details, c.says) {
			t.Errorf("%s %.60q: exit %d, %s", c.command, c.stdin, exit, out)
		}
		if took := time.Since(start); took > 5*time.Second { // it starts a process, and waits for nobody
			t.Errorf("%s %.60q took %v", c.command, c.stdin, took)
		}
	}
}

// agent is a ttrpc server of the real kind that says what it was asked.
type agent struct{ asked chan *cniapi.Request }

func (a agent) answer(verb string, r *cniapi.Request) (*cniapi.Response, error) {
	a.asked <- r
	switch r.GetContainerId() {
	case "refused":
		return &cniapi.Response{Error: &cniapi.Error{Code: 101, Msg: "no \"address\"", Details: "all\nare taken"}}, nil
	case "broken":
		return nil, errors.New("boom")
	}
	return &cniapi.Response{Result: []byte(verb + "\n")}, nil
}

func (a agent) Add(_ context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return a.answer("ADD", r)
}

func (a agent) Del(_ context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return a.answer("DEL", r)
}

func (a agent) Check(_ context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return a.answer("CHECK", r)
}

func (a agent) GC(_ context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return a.answer("GC", r)
}

func (a agent) Status(_ context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return a.answer("STATUS", r)
}

func startAgent(t *testing.T) (agent, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	a := agent{make(chan *cniapi.Request, 1)}
	cniapi.RegisterCNIService(server, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return a, socket
}

func TestCallsReachTheAgent(t *testing.T) {
	binary := build(t)
	a, socket := startAgent(t)
	config := `{"cniVersion":"1.0.0","name":"n","socket":"` + socket + `","pad":"` + strings.Repeat("x", 20000) + `"}`
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		cmd := exec.Command(binary)
		cmd.Stdin = strings.NewReader(config)
		cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0", "CNI_ARGS=K=V;L=W"}
		out, err := cmd.Output()
		if err != nil || string(out) != verb+"\n" {
			t.Fatalf("%s: %q, %v", verb, out, err)
		}
		r := <-a.asked
		if r.GetContainerId() != "c1" || r.GetNetns() != "/run/netns/x" || r.GetIfName() != "eth0" || r.GetArgs() != "K=V;L=W" || !bytes.Equal(r.GetConfig(), []byte(config)) {
			t.Errorf("%s: %v", verb, r)
		}
	}
}

func TestErrorsOfTheAgent(t *testing.T) {
	a, socket := startAgent(t)
	config := `{"cniVersion":"0.4.0","name":"n","socket":"` + socket + `"}`
	out, exit := run(t, config, "CNI_COMMAND=ADD", "CNI_CONTAINERID=refused")
	<-a.asked
	if e := parse(t, out); exit != 1 || e != (cniError{"0.4.0", 101, "no \"address\"", "all\nare taken"}) {
		t.Errorf("exit %d, %s", exit, out)
	}
	out, exit = run(t, config, "CNI_COMMAND=ADD", "CNI_CONTAINERID=broken")
	<-a.asked
	if e := parse(t, out); exit != 1 || e.Code != 11 || !strings.Contains(e.Details, "boom") {
		t.Errorf("exit %d, %s", exit, out)
	}
}

// An agent that dies or hangs in the middle of a call.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	hang, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			if i == 1 {
				<-hang
			}
			_ = c.Close()
		}
	}()
	if _, problem := call(socket, "Add", request{}, time.Now().Add(time.Minute)); problem != "it went away during the call" {
		t.Errorf("%q", problem)
	}
	if _, problem := call(socket, "Add", request{}, time.Now().Add(50*time.Millisecond)); problem != "it took too long" {
		t.Errorf("%q", problem)
	}
	close(hang)
	<-done
}
