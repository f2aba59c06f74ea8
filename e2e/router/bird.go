package router

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
)

// bird is a router with BIRD 2.
type bird struct {
	Config
	group *process.Group
}

// NewBIRD returns a router that is run by BIRD 2.
func NewBIRD(c Config, g *process.Group) Router { return &bird{c, g} }

const birdConf = `# {{.Name}}: written by the Godwit lab.
log stderr all;
router id {{.RouterID}};

protocol device {}
protocol direct {
{{- range .Families}}
  {{if .V4}}ipv4{{else}}ipv6{{end}};
{{- end}}
  interface {{range $i, $l := .AnnounceLinks}}{{if $i}}, {{end}}"{{$l}}"{{end}};
}
{{range .Families}}
protocol kernel {
  merge paths on;
  {{if .V4}}ipv4{{else}}ipv6{{end}} { import none; export where source = RTS_BGP; };
}
{{- end}}
{{range .Families}}
filter from_nodes{{if not .V4}}6{{end}} {
  if net ~ [ {{range $i, $p := .Pools}}{{if $i}}, {{end}}{{$p}}+{{end}} ] then accept;
  reject;
}
filter hosts{{if not .V4}}6{{end}} {
  if net ~ [ {{range $i, $n := .Announce}}{{if $i}}, {{end}}{{$n}}{{end}} ] then accept;
  reject;
}
{{- end}}
{{range $g := .Groups}}
template bgp {{$g.Name}} {
  local {{$g.Address}} as {{$.ASN}};
  direct;
  hold time 90;
  connect retry time 5;
  error wait time 1, 10;
  graceful restart {{if $.NoGracefulRestart}}off{{else}}on{{end}};
{{- if $.Password}}
  password "{{$.Password}}";
{{- end}}
{{- range .Carry}}
  {{if .V4}}ipv4{{else}}ipv6{{end}} {
    next hop address {{.Address}};
    import filter from_nodes{{if not .V4}}6{{end}};
    export filter hosts{{if not .V4}}6{{end}};
  };
{{- end}}
}
{{- range .Peers}}
protocol bgp {{.Name}} from {{$g.Name}} {
  neighbor {{.Address}} as {{$.PeerASN}};
}
{{- end}}
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
	return waitFor(ctx, b.Patience.Times(startTimeout), "BIRD of "+b.Name+" (see "+b.group.Log(b.process())+")", func() error {
		_, err := b.Show(ctx, "show status")
		return err
	})
}

func (b *bird) Stop(ctx context.Context) error { return b.group.Stop(ctx, b.process()) }

func (b *bird) Kill(ctx context.Context) error { return b.group.Kill(ctx, b.process()) }

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

func (b *bird) Blocks(ctx context.Context, pool netip.Prefix) (string, string, error) {
	table := "master4"
	if pool.Addr().Is6() {
		table = "master6"
	}
	cmd := "show route table " + table + " where net ~ " + pool.String()
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
