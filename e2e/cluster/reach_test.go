package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/podtest"
)

// asked is how often a Service is asked by each.
const asked = 12

// asker is who asks: a pod of each node, or a node itself.
type asker struct {
	name string
	run  func(args ...string) (string, error) // podtest
}

// askers are all who ask.
func (c *Cluster) askers(t *testing.T, each []pod) []asker {
	ctx := t.Context()
	var list []asker
	for _, p := range each {
		list = append(list, asker{"pod on " + p.node, func(args ...string) (string, error) { return c.Exec(ctx, p.name, args...) }})
	}
	program, err := c.Program("podtest")
	must(t, err)
	for _, n := range c.Nodes {
		list = append(list, asker{"node " + n.Name, func(args ...string) (string, error) {
			out, err := namespace.Run(ctx, c.Netns(n.Name), append([]string{program}, args...)...)
			return strings.TrimSpace(out), err
		}})
	}
	return list
}

// testReach holds that pods and nodes reach pods, hostPorts and Services.
func testReach(t *testing.T, c *Cluster) {
	ctx := t.Context()
	start := time.Now()
	must(t, c.Apply(ctx, workload))
	must(t, c.rolledOut(ctx, "daemonset/each", "deployment/web"))
	t.Logf("33 pods are ready, by their probes, after %.1f s", time.Since(start).Seconds())

	start = time.Now()
	each := c.pods(t, "each")
	if len(each) != len(c.Nodes) {
		t.Fatalf("pods %v, want one on each of three nodes", each)
	}
	var web []string
	for _, p := range c.pods(t, "web") {
		web = append(web, p.name)
	}
	if len(web) != 30 {
		t.Fatalf("%d pods of the Deployment run, want 30", len(web))
	}
	service := c.service(t, "web")
	var urls, names []string
	for _, p := range each {
		urls, names = append(urls, fmt.Sprintf("http://%s:%d", p.address, podtest.HTTPPort)), append(names, p.name)
	}
	for i, n := range c.Nodes { // both are sorted
		urls, names = append(urls, fmt.Sprintf("http://%s:%d", n.Address.Addr(), hostPort)), append(names, each[i].name)
	}
	for _, a := range c.askers(t, each) {
		out, err := a.run(append([]string{"get"}, urls...)...)
		if got := strings.Fields(out); err != nil || !slices.Equal(got, names) {
			t.Errorf("%s asks pods and hostPorts %v: they answer %v (%v), want %v", a.name, urls, got, err, names)
		}
		out, err = a.run(append([]string{"get"}, slices.Repeat([]string{"http://" + service}, asked)...)...)
		checkService(t, a.name, "HTTP", out, err, web)
		out, err = a.run("dns", service+":53", fmt.Sprint(asked))
		checkService(t, a.name, "DNS", out, err, web)
	}
	t.Logf("all answered within %.1f s", time.Since(start).Seconds())
}

// checkService holds that every query was answered at the first try, by pods of
// the Service, and not by one alone.
func checkService(t *testing.T, who, what, out string, err error, members []string) {
	t.Helper()
	answers := strings.Fields(out)
	if err != nil || len(answers) != asked || slices.ContainsFunc(answers, func(a string) bool { return !slices.Contains(members, a) }) {
		t.Errorf("%s asks the Service for %s %d times: it answers %v (%v)", who, what, asked, answers, err)
		return
	}
	if slices.Sort(answers); len(slices.Compact(answers)) < 2 {
		t.Errorf("%s asks the Service for %s: of 30 pods only %s answers", who, what, answers[0])
	}
}
