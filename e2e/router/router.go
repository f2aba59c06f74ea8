// Package router runs the lab's top-of-rack routers: real BIRD 2 and FRR
// daemons with real configurations, each in its own network namespace.
//
// Invariants:
//   - Nothing outside of a router's own directory is read or written, except
//     FRR's crash-log directory, which Stop removes.
//   - A router takes from the nodes only blocks of the pool, and announces to
//     them only the networks of its hosts.
package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
)

// Neighbor is a node that a router speaks with.
type Neighbor struct {
	Name    string
	Address netip.Addr
}

// Config is what a router is to do.
type Config struct {
	Name     string
	Netns    string
	Dir      string // for its configuration, sockets and state; made when missing
	Address  netip.Addr
	ASN      uint32
	PeerASN  uint32
	Peers    []Neighbor
	Password string         // TCP MD5 (RFC 2385); empty: none
	Pool     netip.Prefix   // the nodes may announce blocks of it
	Announce []netip.Prefix // the networks of its hosts, connected
	// AnnounceLinks are the interfaces of these networks.
	AnnounceLinks []string
}

// Router is a top-of-rack router.
type Router interface {
	// Start runs the router and returns when it takes commands.
	Start(ctx context.Context) error
	// Stop ends it; a router that does not run is no error.
	Stop(ctx context.Context) error
	// Sessions shuts the sessions with all nodes down, or lets them come up again, as
	// an operator would: the nodes are told so (RFC 4486), and graceful restart does
	// not apply.
	Sessions(ctx context.Context, up bool) error
	// Show asks the router's own command-line program, in its words.
	Show(ctx context.Context, command string) (string, error)
	// Blocks asks for the routes that the nodes announced, in the router's words.
	Blocks(ctx context.Context) (title, view string, err error)
	// Program is its name and version.
	Program(ctx context.Context) string
}

func render(file, text string, c Config) error {
	t, err := template.New(filepath.Base(file)).Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, c); err != nil {
		return err
	}
	// FRR's daemons read theirs as a user of their own; a password in it is the lab's.
	return os.WriteFile(file, b.Bytes(), 0o644) // #nosec G306
}

func makeDir(dir string) error {
	return os.MkdirAll(dir, 0o755) // #nosec G301 -- FRR runs as its own user
}

// waitFor repeats a question until it is answered.
func waitFor(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// find looks for a program, also in folders that are not in everyone's PATH.
func find(name string, more ...string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range append(more, "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s is not installed: install the packages bird2 and frr", name)
}

// bird is a router with BIRD 2.
type bird struct {
	Config
	group *process.Group
}

// NewBIRD returns a router that is run by BIRD 2.
func NewBIRD(c Config, g *process.Group) Router { return &bird{c, g} }

const birdConf = `# {{.Name}}: written by the Godwit lab.
log stderr all;
router id {{.Address}};

protocol device {}
protocol direct {
  ipv4;
  interface {{range $i, $l := .AnnounceLinks}}{{if $i}}, {{end}}"{{$l}}"{{end}};
}
protocol kernel {
  merge paths on;
  ipv4 { import none; export where source = RTS_BGP; };
}

filter from_nodes {
  if net ~ [ {{.Pool}}+ ] then accept;
  reject;
}
filter hosts {
  if net ~ [ {{range $i, $n := .Announce}}{{if $i}}, {{end}}{{$n}}{{end}} ] then accept;
  reject;
}

template bgp node {
  local {{.Address}} as {{.ASN}};
  direct;
  hold time 90;
  connect retry time 5;
  graceful restart on;
{{- if .Password}}
  password "{{.Password}}";
{{- end}}
  ipv4 {
    import filter from_nodes;
    export filter hosts;
  };
}
{{range .Peers}}
protocol bgp {{.Name}} from node {
  neighbor {{.Address}} as {{$.PeerASN}};
}
{{- end}}
`

func (b *bird) socket() string { return filepath.Join(b.Dir, "bird.ctl") }

func (b *bird) process() string { return b.Name + "-bird" }

func (b *bird) Start(ctx context.Context) error {
	path, err := find("bird")
	if err != nil {
		return err
	}
	if err := makeDir(b.Dir); err != nil {
		return err
	}
	conf := filepath.Join(b.Dir, "bird.conf")
	if err := render(conf, birdConf, b.Config); err != nil {
		return err
	}
	err = b.group.Start(process.Spec{
		Name: b.process(), Netns: b.Netns, Path: path,
		Args: []string{"-f", "-c", conf, "-s", b.socket()},
	})
	if err != nil {
		return err
	}
	return waitFor(ctx, "BIRD of "+b.Name+" (see "+b.group.Log(b.process())+")", func() error {
		_, err := b.Show(ctx, "show status")
		return err
	})
}

func (b *bird) Stop(ctx context.Context) error { return b.group.Stop(ctx, b.process()) }

func (b *bird) Sessions(ctx context.Context, up bool) error {
	verb := map[bool]string{true: "enable ", false: "disable "}[up]
	for _, p := range b.Peers {
		if _, err := b.Show(ctx, verb+p.Name); err != nil {
			return err
		}
	}
	return nil
}

func (b *bird) Show(ctx context.Context, command string) (string, error) {
	path, err := find("birdc")
	if err != nil {
		return "", err
	}
	out, err := namespace.Run(ctx, b.Netns, append([]string{path, "-s", b.socket()}, strings.Fields(command)...)...)
	// birdc greets before it answers.
	_, answer, ok := strings.Cut(out, "ready.\n")
	if err == nil && !ok {
		err = fmt.Errorf("birdc of %s: %s", b.Name, strings.TrimSpace(out))
	}
	return answer, err
}

func (b *bird) Blocks(ctx context.Context) (string, string, error) {
	cmd := "show route where net ~ " + b.Pool.String()
	out, err := b.Show(ctx, cmd)
	return "birdc " + cmd, sortEntries(out), err
}

// sortEntries puts birdc's routes, which come in the order of a hash table,
// into an order that is the same every time. An entry is a line and the
// indented ones that follow it; the title stays first.
func sortEntries(view string) string {
	title, rest, _ := strings.Cut(view, "\n")
	var entries []string
	for line := range strings.Lines(rest) {
		if len(entries) > 0 && strings.HasPrefix(line, "\t") {
			entries[len(entries)-1] += line
			continue
		}
		entries = append(entries, line)
	}
	slices.Sort(entries)
	return title + "\n" + strings.Join(entries, "")
}

func (b *bird) Program(ctx context.Context) string {
	out, err := b.Show(ctx, "show status")
	if err != nil {
		return "BIRD"
	}
	first, _, _ := strings.Cut(out, "\n")
	return first
}

// frr is a router with FRR's zebra and bgpd.
type frr struct {
	Config
	group *process.Group
}

// NewFRR returns a router that is run by FRR.
func NewFRR(c Config, g *process.Group) Router { return &frr{c, g} }

const zebraConf = `! {{.Name}}: written by the Godwit lab.
hostname {{.Name}}
log stdout informational
`

const bgpdConf = `! {{.Name}}: written by the Godwit lab.
hostname {{.Name}}
log stdout informational
!
ip prefix-list from-nodes seq 5 permit {{.Pool}} le 32
{{- range .Announce}}
ip prefix-list hosts permit {{.}}
{{- end}}
!
route-map from-nodes permit 10
 match ip address prefix-list from-nodes
route-map hosts permit 10
 match ip address prefix-list hosts
!
router bgp {{.ASN}}
 bgp router-id {{.Address}}
 bgp log-neighbor-changes
 bgp graceful-restart
 neighbor nodes peer-group
 neighbor nodes remote-as {{.PeerASN}}
 neighbor nodes timers 30 90
 neighbor nodes timers connect 5
{{- if .Password}}
 neighbor nodes password {{.Password}}
{{- end}}
{{- range .Peers}}
 neighbor {{.Address}} peer-group nodes
 neighbor {{.Address}} description {{.Name}}
{{- end}}
 !
 address-family ipv4 unicast
{{- range .Announce}}
  network {{.}}
{{- end}}
  neighbor nodes activate
  neighbor nodes soft-reconfiguration inbound
  neighbor nodes route-map from-nodes in
  neighbor nodes route-map hosts out
 exit-address-family
`

// frrDaemons are started in this order.
func (f *frr) daemons() []struct{ name, conf string } {
	return []struct{ name, conf string }{{"zebra", zebraConf}, {"bgpd", bgpdConf}}
}

func (f *frr) process(daemon string) string { return f.Name + "-" + daemon }

func (f *frr) Start(ctx context.Context) error {
	if err := makeDir(f.Dir); err != nil {
		return err
	}
	if err := chownTo(f.Dir, "frr"); err != nil {
		return err
	}
	for _, d := range f.daemons() {
		if err := f.startDaemon(ctx, d.name, d.conf); err != nil {
			return err
		}
	}
	return nil
}

func (f *frr) startDaemon(ctx context.Context, name, text string) error {
	path, err := find(name, "/usr/lib/frr", "/usr/libexec/frr")
	if err != nil {
		return err
	}
	conf := filepath.Join(f.Dir, name+".conf")
	if err := render(conf, text, f.Config); err != nil {
		return err
	}
	err = f.group.Start(process.Spec{
		Name: f.process(name), Netns: f.Netns, Path: path,
		Args: []string{
			"-f", conf, "-i", filepath.Join(f.Dir, name+".pid"), "-z", filepath.Join(f.Dir, "zserv.api"),
			"--vty_socket", f.Dir, "-P", "0", "-A", "127.0.0.1",
		},
	})
	if err != nil {
		return err
	}
	return waitFor(ctx, "FRR's "+name+" of "+f.Name+" (see "+f.group.Log(f.process(name))+")", func() error {
		_, err := f.vtysh(ctx, name, "show version")
		return err
	})
}

func (f *frr) Stop(ctx context.Context) error {
	var errs []error
	for _, name := range []string{"bgpd", "zebra"} {
		r, recErr := f.group.Get(f.process(name))
		errs = append(errs, f.group.Stop(ctx, f.process(name)))
		if recErr == nil {
			errs = append(errs, removeCrashLogs(name, r.PID))
		}
	}
	return errors.Join(errs...)
}

func (f *frr) Sessions(ctx context.Context, up bool) error {
	no := map[bool]string{true: "no ", false: ""}[up]
	_, err := f.vtysh(ctx, "bgpd", "configure terminal", fmt.Sprintf("router bgp %d", f.ASN), no+"neighbor nodes shutdown")
	return err
}

func (f *frr) Show(ctx context.Context, command string) (string, error) {
	return f.vtysh(ctx, "bgpd", command)
}

func (f *frr) vtysh(ctx context.Context, daemon string, commands ...string) (string, error) {
	path, err := find("vtysh")
	if err != nil {
		return "", err
	}
	argv := []string{path, "--vty_socket", f.Dir, "--config_dir", f.Dir, "-d", daemon}
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	return namespace.Run(ctx, f.Netns, argv...)
}

func (f *frr) Blocks(ctx context.Context) (string, string, error) {
	out, err := f.Show(ctx, "show bgp ipv4 unicast")
	return "vtysh -c 'show bgp ipv4 unicast'", out, err
}

func (f *frr) Program(ctx context.Context) string {
	out, err := f.Show(ctx, "show version")
	if err != nil {
		return "FRR"
	}
	if first := strings.Fields(out); len(first) > 1 {
		return "FRR " + first[1]
	}
	return "FRR"
}
