package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/e2e/lab"
)

// testGoldens compares the route tables of pods, nodes and routers with
// files in the operator's language.
func testGoldens(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 30*time.Second)
	for full, want := range map[string]string{"n1-p3": "172.25.0.130", "n2-p4": "172.25.0.195"} {
		if got := pod(t, l, full).Address.String(); got != want {
			t.Errorf("pod %s has %s, want %s", full, got, want)
		}
	}
	for _, m := range []string{"n1-p3", "n2-p4", "n1", "n2", "n3"} {
		golden(t, m+".ip-route.txt", run(t, l, m, "ip -4 route"))
	}
	for i, r := range l.Routers {
		_, view, err := r.Blocks(ctx, l.Top.Pool.V4)
		if err != nil {
			t.Fatal(err)
		}
		name := l.Top.ToRs[i].Name
		golden(t, name+"."+[]string{"birdc-show-route.txt", "vtysh-show-bgp.txt"}[i], view)
		golden(t, name+".ip-route.txt", run(t, l, name, "ip -4 route"))
	}
}

// normalise takes out of text what differs from run to run: names of veths,
// identifiers of nexthops, the order of equal-cost ways, times and versions of
// tables.
func normalise(text string) string {
	for _, r := range []struct{ find, put string }{
		{`\bgw[0-9a-f]{8,13}\b`, "VETH"},
		{` nhid \d+`, ""},
		{`\bproto 71\b`, "proto godwit"},
		{`\b\d\d:\d\d:\d\d(\.\d+)?\b`, "TIME"},
		{`table version is \d+`, "table version is N"},
		{`[ \t]+(\n|$)`, "$1"},
	} {
		text = regexp.MustCompile(r.find).ReplaceAllString(text, r.put)
	}
	text = regexp.MustCompile(`(?m)(^\tnexthop .*\n)+`).ReplaceAllStringFunc(text, func(ways string) string {
		lines := slices.Collect(strings.Lines(ways))
		slices.Sort(lines)
		return strings.Join(lines, "")
	})
	return strings.TrimLeft(text, "\n")
}

// golden compares text with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = normalise(got)
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (- want, + got; `go test -run '^%s$' -update .` writes it anew):\n%s", file, t.Name(), diff)
	}
}
