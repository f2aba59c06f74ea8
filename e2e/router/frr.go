package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
)

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
{{- range .Families}}
{{- $ip := "ip"}}{{$n := ""}}{{$most := 32}}{{if not .V4}}{{$ip = "ipv6"}}{{$n = "6"}}{{$most = 128}}{{end}}
{{- range .Pools}}
{{$ip}} prefix-list from-nodes{{$n}} permit {{.}} le {{$most}}
{{- end}}
{{- range .Announce}}
{{$ip}} prefix-list hosts{{$n}} permit {{.}}
{{- end}}
!
route-map from-nodes{{$n}} permit 10
 match {{$ip}} address prefix-list from-nodes{{$n}}
{{- if not .V4}}
 set ipv6 next-hop prefer-global
{{- end}}
route-map hosts{{$n}} permit 10
 match {{$ip}} address prefix-list hosts{{$n}}
 set {{$ip}} next-hop {{if not .V4}}global {{end}}{{.Address}}
!
{{- end}}
router bgp {{.ASN}}
 bgp router-id {{.RouterID}}
 bgp log-neighbor-changes
{{- if .NoGracefulRestart}}
 bgp graceful-restart-disable
{{- else}}
 bgp graceful-restart
{{- end}}
 no bgp default ipv4-unicast
{{- range $g := .Groups}}
 neighbor {{$g.Name}} peer-group
 neighbor {{$g.Name}} remote-as {{$.PeerASN}}
 neighbor {{$g.Name}} timers 30 90
 neighbor {{$g.Name}} timers connect 5
{{- if $.Password}}
 neighbor {{$g.Name}} password {{$.Password}}
{{- end}}
{{- range .Peers}}
 neighbor {{.Address}} peer-group {{$g.Name}}
 neighbor {{.Address}} description {{.Name}}
{{- end}}
{{- end}}
{{- range $f := .Families}}
 !
 address-family {{if .V4}}ipv4{{else}}ipv6{{end}} unicast
{{- range .Announce}}
  network {{.}}
{{- end}}
{{- range $g := $.Groups}}
{{- range .Carry}}
{{- if eq .V4 $f.V4}}
  neighbor {{$g.Name}} activate
  neighbor {{$g.Name}} soft-reconfiguration inbound
  neighbor {{$g.Name}} route-map from-nodes{{if not .V4}}6{{end}} in
  neighbor {{$g.Name}} route-map hosts{{if not .V4}}6{{end}} out
{{- end}}
{{- end}}
{{- end}}
 exit-address-family
{{- end}}
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
	return waitFor(ctx, f.Patience.Times(startTimeout), "FRR's "+name+" of "+f.Name+" (see "+f.group.Log(f.process(name))+")", func() error {
		_, err := f.vtysh(ctx, name, "show version")
		return err
	})
}

func (f *frr) Stop(ctx context.Context) error { return f.end(ctx, f.group.Stop) }

func (f *frr) Kill(ctx context.Context) error { return f.end(ctx, f.group.Kill) }

// end ends both daemons, the one that speaks with peers first.
func (f *frr) end(ctx context.Context, how func(context.Context, string) error) error {
	var errs []error
	for _, name := range []string{"bgpd", "zebra"} {
		r, recErr := f.group.Get(f.process(name))
		errs = append(errs, how(ctx, f.process(name)))
		if recErr == nil {
			errs = append(errs, removeCrashLogs(name, r.PID))
		}
	}
	return errors.Join(errs...)
}

func (f *frr) Sessions(ctx context.Context, up bool) error {
	no := map[bool]string{true: "no ", false: ""}[up]
	commands := []string{"configure terminal", fmt.Sprintf("router bgp %d", f.ASN)}
	for _, g := range f.Groups() {
		commands = append(commands, no+"neighbor "+g.Name+" shutdown")
	}
	_, err := f.vtysh(ctx, "bgpd", commands...)
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

func (f *frr) Blocks(ctx context.Context, pool netip.Prefix) (string, string, error) {
	cmd := "show bgp ipv4 unicast"
	if pool.Addr().Is6() {
		cmd = "show bgp ipv6 unicast"
	}
	out, err := f.Show(ctx, cmd)
	return "vtysh -c '" + cmd + "'", out, err
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
